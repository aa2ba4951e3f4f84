"""Joining a Ray cluster, or starting one on this machine.

A cluster is joined when RAY_ADDRESS names one, or when the process runs inside a Ray job.
Otherwise Ray starts here, listening on loopback only, and ends with the process.
"""

import contextlib
import logging
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private import auto_init_hook, ray_constants
from ray.data import DataContext
from ray.exceptions import RayError, RayTaskError

from pipeline.cores import granted_cores
from pipeline.errors import DataProblems, SettingsError, StoppedError, TesseraError

_ours: list[int] = []
"""Bytes of the object store of the connection that `ray_session` made; empty without one."""
_STARTS = 3
_LONGEST_TMPDIR = 38
"""Bytes: the sockets that Ray makes below it have names of 69 more, and the kernel takes 107."""
_STORE_BYTES = 2 << 30  # of the object store on this machine; what is in flight is a part of it


@dataclass(frozen=True)
class Resources:
    """What the cluster has, in all."""

    nodes: int
    """That have a CPU to compute on."""
    cpus: float
    gpus: int
    largest_node_cpus: float
    largest_node_memory: int
    """Bytes, without the object store's."""
    store_bytes: int = _STORE_BYTES
    """Memory of the object store."""


def on_cluster() -> bool:
    """Whether there is a cluster to join, or this process is a job of one."""
    return "RAY_ADDRESS" in os.environ


@contextlib.contextmanager
def ray_session(store_bytes: int = _STORE_BYTES) -> Iterator[Resources]:
    """Ray for the time of a `with`; an existing connection is used and left as it is."""
    if ray.is_initialized():
        yield _resources()
        return
    _quieten()
    # Or a thread of a stopped run that asks for more would start Ray anew, or join a stranger's.
    auto_init_hook.enable_auto_connect = False
    _connect(store_bytes)
    _ours.append(store_bytes)
    try:
        resources = _resources()
        check_computes(resources)
        yield resources
    finally:
        _ours.clear()
        ray.shutdown()


def renew_session() -> Resources:
    """Leave Ray and join it again: what still hangs of this process's work is killed with it.

    A connection that was there before `ray_session` may be somebody's for other work too, and
    stays.
    """
    if _ours:
        ray.shutdown()
        _connect(*_ours)
    return _resources()


def _connect(store_bytes: int) -> None:
    with _sigterm_kept():
        _connect_patiently(store_bytes)


def _connect_patiently(store_bytes: int) -> None:
    local = not on_cluster()
    for left in reversed(range(_STARTS)):
        try:
            _start_here(store_bytes) if local else _join()
            return
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            if left and local and "timed out" in str(error):
                continue  # on a busy machine its half a minute may be too short
            where = "on this machine" if local else f"at {os.environ['RAY_ADDRESS']}"
            reason = " ".join(str(error).split())[:200]
            if local and isinstance(error, OSError):
                reason += "; RAY_TMPDIR names another folder for its files"
            raise TesseraError(f"Ray did not start {where}: {reason}") from error


def _start_here(store_bytes: int) -> None:
    _stay_on_loopback()
    if len(os.environ.get("TMPDIR", "")) > _LONGEST_TMPDIR:  # as those of batch systems are
        os.environ.setdefault("RAY_TMPDIR", "/tmp")
    # Nobody announces that this machine will go; the process that would listen costs 1 % of a core.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    ray.init(
        "local",  # or Ray would join what somebody has started on this machine
        num_cpus=granted_cores(),
        include_dashboard=False,
        object_store_memory=store_bytes,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def _join() -> None:
    """As a driver of the cluster."""
    ray.init(log_to_driver=False, logging_level=logging.ERROR)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """What the signal does stays as it was: Ray's own handlers print a stack, and abort."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # one of them, while Ray starts
        if not callable(before):
            raise
        before(signal.SIGTERM, None)
        raise StoppedError("stopped by SIGTERM", signal.SIGTERM) from None
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def user_error(error: BaseException) -> TesseraError | None:
    """The error of ours that a Ray error carries from another process, if any."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        current = waiting.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, DataProblems) and not isinstance(current, RayError):
            return current
        if isinstance(current, TesseraError) and not isinstance(current, RayError):
            # Ray Data adds lines of advice of its own to the message.
            return type(current)(str(current).partition("\n")[0])
        linked = [current.__cause__, current.__context__]
        linked += [getattr(current, name, None) for name in ("cause", "controller_failure")]
        linked += list(getattr(current, "worker_failures", {}).values())
        waiting += [item for item in linked if isinstance(item, BaseException)]
    return None


@contextlib.contextmanager
def unwrapped_errors() -> Iterator[None]:
    """Raise our own error where Ray wraps it in its own."""
    try:
        yield
    except Exception as error:
        found = user_error(error) or _lost_process(error)
        if found is None or (isinstance(error, type(found)) and not isinstance(error, RayError)):
            raise
        raise found from None


def _lost_process(error: BaseException) -> TesseraError | None:
    """What to say of a process that Ray has lost, and tried again in vain; it is no defect."""
    if not isinstance(error, RayError) or isinstance(error, RayTaskError):
        return None
    kind = type(error).__name__
    return TesseraError(f"Ray lost what it worked with ({kind}): give the same command again")


def data_context() -> DataContext:
    """Ray Data's settings for this process, with what all of our graphs want of them."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors reach the driver by raising
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # or `unwrapped_errors` would find only text
    context.max_errored_blocks = 0  # any other value drops rows without a word
    return context


def check_computes(resources: Resources) -> None:
    """Refuse a cluster of which nothing but the head is there: work shares what it finds.

    Raises:
        TesseraError: says so.
    """
    if not resources.cpus and not resources.gpus:
        raise TesseraError(
            "the cluster has no node to compute on: start a worker node, or give its group a "
            "least number of 1, and give the same command again"
        )


def check_fits(workers: int, resources: Resources) -> None:
    """Refuse more workers than the cluster can hold, instead of waiting for ever.

    Raises:
        SettingsError: names the setting and the most that it takes here.
    """
    most = resources.gpus or max(1, math.floor(resources.cpus * 4))
    if workers > most:
        device = f"{resources.gpus} GPUs" if resources.gpus else f"{resources.cpus:g} CPUs"
        raise SettingsError(f"setting workers: at most {most} fit on {device}, not {workers}")


def _resources() -> Resources:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus = [node.get("CPU", 0.0) for node in alive]
    return Resources(
        nodes=max(1, sum(count > 0 for count in cpus)),
        cpus=total.get("CPU", 0.0),
        gpus=int(total.get("GPU", 0)),
        largest_node_cpus=max(cpus, default=1.0),
        store_bytes=int(total.get("object_store_memory", _STORE_BYTES)),
        largest_node_memory=int(max(node.get("memory", 0.0) for node in alive)),
    )


def _stay_on_loopback() -> None:
    """Listen where only this machine can reach, as Ray does of itself on macOS and Windows.

    The switch is Ray's, read from the environment when a process imports it: the variable is for
    the processes to come, the constant for this one, in which Ray is imported already.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray_constants.ENABLE_RAY_CLUSTER = False


def _quieten() -> None:
    """Ray's own progress and notices are for those who develop on Ray; the jobs print theirs."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # what matters is fetched, and raised
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # The bounds on retries have no other place in this version of Ray, which is pinned.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")
    # A stage that gets nothing, since what was before it died, is told of by `rounds`.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors")
