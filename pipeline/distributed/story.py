"""The story of a run: how far it is, and what is told of it afterwards."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pipeline import __version__
from pipeline.distributed.stages import ShardResult
from pipeline.distributed.timing import NO_SECONDS, StageSeconds
from pipeline.memory import peak_memory
from pipeline.tables.runs import Run
from pipeline.tables.tally import Tally


@dataclass(frozen=True)
class Progress:
    """How far this attempt is."""

    total: int
    """Images to do."""
    images: int = 0
    objects: int = 0
    rejects: int = 0
    reject_codes: Mapping[str, int] = field(default_factory=dict)
    """Code → number of rejects."""
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    first_commit_seconds: float | None = None
    peak_memory: int = 0
    """Most bytes that one process held, of those that read, predict and commit."""
    stage_seconds: StageSeconds = NO_SECONDS
    parts: tuple[int, int] | None = None
    """Done and all, of the large images at hand, in both steps; None where there are none."""

    @property
    def done(self) -> int:
        """Images with a result, good or bad."""
        return self.images + self.rejects

    def plus(self, result: ShardResult, seconds: float) -> "Progress":
        """With one more shard committed, so many seconds after the start."""
        return replace(
            self,
            images=self.images + result.images,
            objects=self.objects + result.objects,
            rejects=self.rejects + len(result.reject_codes),
            reject_codes=dict(Counter(self.reject_codes) + Counter(result.reject_codes)),
            pixels=self.pixels + result.pixels,
            bytes_read=self.bytes_read + result.bytes_read,
            bytes_written=self.bytes_written + result.bytes_written,
            seconds=seconds,
            first_commit_seconds=self.first_commit_seconds or seconds,
            peak_memory=max(self.peak_memory, result.peak_memory),
            stage_seconds=self.stage_seconds + result.seconds,
            parts=None,
        )


OnProgress = Callable[[Progress], None]


class Attempt:
    """What one process does for a run, from its start to its end, whatever that is."""

    def __init__(self, run: Run, total: int, on_progress: OnProgress) -> None:
        self.run = run
        self.on_progress = on_progress
        self.started = datetime.now(UTC)
        self.clock = time.monotonic()
        self.progress = Progress(total)
        self.recovered = 0

    def add(self, result: ShardResult, recovered: int) -> None:
        """One more shard is committed.

        Args:
            recovered: shards so far that took more than one try.
        """
        self.recovered = recovered
        self.progress = self.progress.plus(result, time.monotonic() - self.clock)
        self.on_progress(self.progress)

    def parts(self, done: int, total: int) -> None:
        """Large images are so far."""
        seconds = time.monotonic() - self.clock
        self.progress = replace(self.progress, parts=(done, total), seconds=seconds)
        self.on_progress(self.progress)

    def tell(self, ended_by: str) -> None:
        """Keep the story with the run; `ended_by` is `done`, or what came in between."""
        now = self.progress
        self.run.add_attempt(
            {
                "started": self.started.isoformat(timespec="seconds"),
                "ended_by": ended_by,
                **{key: value for key, value in asdict(now).items() if key != "parts"},
                "recovered_shards": self.recovered,
                "rates": _rates(now.done, now.pixels, now.bytes_read, now.seconds),
                "peak_memory_driver": peak_memory(),
            }
        )


def run_summary(run: Run, tally: Tally, settings: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What a finished plan came to, over all its attempts.

    Args:
        tally: what its shards hold.
    """
    attempts = run.attempts()
    # The last attempt may only have swept; the run's pace is that of all of them.
    totals = {
        key: sum(one[key] for one in attempts)
        for key in ("images", "rejects", "pixels", "bytes_read", "seconds")
    }
    return {
        "run": run.id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": tally.images,
        "objects": tally.objects,
        "pixels": tally.pixels,
        "rejects": tally.reject_codes.total(),
        "reject_codes": dict(sorted(tally.reject_codes.items())),
        "seconds": round(totals["seconds"], 3),
        "stage_seconds": _stage_seconds(attempts),
        "rates": _rates(
            totals["images"] + totals["rejects"],
            totals["pixels"],
            totals["bytes_read"],
            totals["seconds"],
        ),
        "peak_memory": max(one["peak_memory"] for one in attempts),
        "model": model,
        "settings": dict(settings),
        "versions": versions(),
        "attempts": attempts,
    }


def _stage_seconds(attempts: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Of all attempts; those of versions before this one did not tell."""
    told = (StageSeconds(**one.get("stage_seconds", {})) for one in attempts)
    return {stage: round(value, 3) for stage, value in asdict(sum(told, NO_SECONDS)).items()}


def _rates(images: int, pixels: int, bytes_read: int, seconds: float) -> dict[str, float]:
    seconds = seconds or 1e-9
    return {
        "images_per_second": round(images / seconds, 3),
        "megapixels_per_second": round(pixels / seconds / 1e6, 3),
        "megabytes_read_per_second": round(bytes_read / seconds / 1e6, 3),
    }


def versions() -> dict[str, str]:
    """Of what decides results and speed."""
    names = ("ray", "torch", "pyarrow", "duckdb")
    return {"tessera": __version__, **{name: version(name) for name in names}}


def last_success(runs: Iterable[Run]) -> float | None:
    """When the newest prediction that ended well had its end, in seconds of Unix time."""
    for run in reversed(list(runs)):
        summary = run.summary() if run.finished else {}
        if "finished" not in summary:
            continue
        if reject_share(summary) <= summary["settings"].get("max_reject_share", 1.0):
            return datetime.fromisoformat(summary["finished"]).timestamp()
    return None


def newest_prediction(runs: Iterable[Run]) -> Run | None:
    """The newest that has finished; None before it."""
    for run in reversed(list(runs)):
        # A sweep, which ends a prediction, tells of no images, nor does what was superseded.
        if run.finished and "rejects" in run.summary():
            return run
    return None


def reject_share(summary: Mapping[str, Any]) -> float:
    """Of the images of a run."""
    rejects, images = int(summary["rejects"]), int(summary["images"])
    return rejects / (images + rejects) if rejects else 0.0


def newest_rate(runs: Iterable[Run]) -> float | None:
    """Images a second of the newest prediction that has finished here; None before the first."""
    for run in reversed(list(runs)):
        if run.finished:
            rate = run.summary().get("rates", {}).get("images_per_second")
            if rate:
                return float(rate)
    return None
