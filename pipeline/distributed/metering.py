"""What Prometheus sees of the jobs, on a cluster that serves Ray's metrics.

One small actor of the cluster holds the numbers, not the driver that they are about: so a run whose
driver was killed still shows what it has left to do, and that nothing moves; and a job that failed
is still seen to have failed when it is scraped. On this machine alone nothing is served.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.distributed.session import on_cluster, ray_session
from pipeline.distributed.story import Progress

Outcome = Literal["done", "failed", "stopped"]

_REPEAT_SECONDS = 5.0
_NAME, _NAMESPACE = "meters", "tessera"
_HEAD = "node:__internal_head__"
"""The resource by which Ray marks the node that the cluster hangs on."""
_COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "images": ("Images with their result committed", ()),
    "objects": ("Objects found", ()),
    "rejects": ("Inputs rejected", ("code",)),
    "pixels": ("Pixels predicted", ()),
    "bytes_read": ("Bytes of files read", ()),
    "bytes_written": ("Bytes of tables written", ()),
    "stage_seconds": ("Seconds that the processes of a stage have worked", ("stage",)),
    "runs": ("Jobs that have ended", ("outcome",)),
}
_GAUGES: Mapping[str, str] = {
    "running": "1 while the job goes on",
    "images_left": "Images that the job has still to do",
    "progress": "Share of the job that is done, 0 to 1",
    "last_success_timestamp_seconds": "When the job last ended well, in Unix time",
}


@dataclass(frozen=True)
class Reading:
    """What has changed of one job."""

    added: tuple[tuple[str, float, tuple[tuple[str, str], ...]], ...] = ()
    """Counter, by how much, and its further tags."""
    now: Mapping[str, float] = field(default_factory=dict)
    """Gauge → value."""


class Meters:
    """The counters and gauges, by job and output."""

    def __init__(self) -> None:
        tags = ("tessera_job", "output")  # `job` is a label of Prometheus itself
        self.counters = {
            name: Counter(f"tessera_{name}", text, tag_keys=(*tags, *more))
            for name, (text, more) in _COUNTERS.items()
        }
        self.gauges = {
            name: Gauge(f"tessera_{name}", text, tag_keys=tags) for name, text in _GAUGES.items()
        }
        self.values: dict[tuple[str, str, str], float] = {}
        threading.Thread(target=self._repeat, daemon=True).start()

    def take(self, job: str, output: str, reading: Reading) -> None:
        tags = {"tessera_job": job, "output": output}
        for name, amount, more in reading.added:
            if amount > 0:
                self.counters[name].inc(amount, tags | dict(more))
        for name, value in reading.now.items():
            self.values[name, job, output] = value
            self.gauges[name].set(value, tags)

    def _repeat(self) -> None:
        """Ray forgets gauges that nobody sets again."""
        while True:
            time.sleep(_REPEAT_SECONDS)
            for (name, job, output), value in list(self.values.items()):
                self.gauges[name].set(value, {"tessera_job": job, "output": output})


class Meter:
    """Tells the cluster's meters of one job; on this machine alone, nobody."""

    def __init__(self, job: str, output: str) -> None:
        self.job = job
        self.output = output
        self.last = Progress(0)

    def begin(self) -> None:
        """The job goes on from now."""
        self._tell(Reading(now={"running": 1.0, "progress": 0.0}))

    def last_success(self, when: float | None) -> None:
        """As its output tells, in Unix time: the cluster that saw it may be gone."""
        if when is not None:
            self._tell(Reading(now={"last_success_timestamp_seconds": when}))

    def update(self, progress: Progress) -> None:
        """A prediction is so far."""
        before = self.last if progress.done >= self.last.done else Progress(0)
        self.last = progress
        self._tell(_reading(before, progress))

    def share(self, done: float) -> None:
        """A training is so far."""
        self._tell(Reading(now={"progress": done}))

    def end(self, outcome: Outcome) -> None:
        """The job goes on no more."""
        now = {"running": 0.0}
        if outcome == "done":
            now |= {"last_success_timestamp_seconds": time.time(), "progress": 1.0}
        self._tell(Reading((("runs", 1, (("outcome", outcome),)),), now))

    def _tell(self, reading: Reading) -> None:
        if not (on_cluster() and ray.is_initialized()):
            return
        with contextlib.suppress(RayError, ConnectionError):  # the job goes on unwatched
            _meters().take.remote(self.job, self.output, reading)


@contextlib.contextmanager
def metered(job: str, output: str) -> Iterator[Meter]:
    """A job from its start; it says itself how it ended, unless by an exception."""
    meter = Meter(job, output)
    if not on_cluster():
        yield meter
        return
    with ray_session():
        meter.begin()
        try:
            yield meter
        except KeyboardInterrupt:
            meter.end("stopped")
            raise
        except Exception:
            meter.end("failed")
            raise


def _reading(before: Progress, now: Progress) -> Reading:
    added: list[tuple[str, float, tuple[tuple[str, str], ...]]] = [
        (name, getattr(now, name) - getattr(before, name), ())
        for name in ("images", "objects", "pixels", "bytes_read", "bytes_written")
    ]
    for code, number in now.reject_codes.items():
        added.append(("rejects", number - before.reject_codes.get(code, 0), (("code", code),)))
    earlier = asdict(before.stage_seconds)
    for stage, seconds in asdict(now.stage_seconds).items():
        added.append(("stage_seconds", seconds - earlier[stage], (("stage", stage),)))
    parts = now.parts[0] / now.parts[1] if now.parts and now.parts[1] else 0.0
    share = min((now.done + parts) / now.total, 1.0) if now.total else 1.0
    return Reading(tuple(added), {"images_left": now.total - now.done, "progress": share})


def _meters() -> Any:
    """The cluster's own, made by who needs it first; on the head, whose end is the cluster's."""
    with contextlib.suppress(ValueError):  # there is none yet
        return ray.get_actor(_NAME, namespace=_NAMESPACE)
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    (head,) = (node["NodeID"] for node in nodes if _HEAD in node["Resources"])
    return (
        ray.remote(Meters)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False),
        )
        .remote()
    )
