"""What every job does around its work: settings in, one line on failure, an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 too many rejects (see `jobs.predict`), 4 a
dataset that is not whole (see `jobs.verify`), 128 and the signal's number when a signal has stopped
the job, as shells have it: 143 SIGTERM, 130 Ctrl-C.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from jobs._log import JsonLog
from pipeline import storage
from pipeline.config import JobSettings, LogSettings
from pipeline.cores import use_granted_cores
from pipeline.errors import SettingsError, StorageError, TesseraError
from pipeline.parsing import load, parse_yaml

if TYPE_CHECKING:
    from pipeline.distributed.metering import Meter

S = TypeVar("S", bound=JobSettings)

DONE, FAILED, WRONG_USAGE, TOO_MANY_REJECTS, DAMAGED = 0, 1, 2, 3, 4
SAVED = -1
"""What a training comes to that was stopped and can be gone on with: exit code 0, and not done."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came, while nobody listened who stops in good order."""


def run_job(kind: type[S], work: Callable[[S], int], flags: Sequence[str] | None = None) -> int:
    """Settings from flags (by default the command line's) → work → exit code."""
    settings: S | None = None
    try:
        with _sigterm_raised():
            settings = read_settings(kind, sys.argv[1:] if flags is None else flags)
            use_granted_cores()
            return max(work(settings), DONE)
    except SettingsError as error:
        return fail(settings, str(error), WRONG_USAGE)
    except TesseraError as error:
        return fail(settings, str(error), FAILED)
    except Terminated:
        return fail(settings, "stopped by SIGTERM", stopped_by(signal.SIGTERM))
    except KeyboardInterrupt:
        return fail(settings, "interrupted", stopped_by(signal.SIGINT))
    except BrokenPipeError:
        # The reader of our output has left, as `head` does. Nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Leave by an exception, so that what is held is given back: a lease, Ray's processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def watched(job: str, output: str, work: "Callable[[Meter], int]") -> int:
    """A job's work, with the cluster's meters told how it ends; its exit code."""
    from pipeline.distributed.metering import metered

    with metered(job, output) as meter:
        code = work(meter)
        stopped = code == SAVED or code > 128
        meter.end("done" if code == DONE else "stopped" if stopped else "failed")
    return code


def stopped_by(number: int) -> int:
    """The exit code of a job that a signal has stopped."""
    return 128 + number if number else FAILED


def read_settings(kind: type[S], flags: Sequence[str]) -> S:
    """Defaults, then the file that `--config` names, then flags."""
    values = {}
    path = config_path(flags)
    if path is not None:
        try:
            text = storage.read_bytes(path).decode()
        except (StorageError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file: {error}") from error
        values = parse_yaml(text, path)
    return load(kind, flags, values)


def config_path(flags: Sequence[str]) -> str | None:
    """The settings file that flags name."""
    for flag, following in zip_longest(flags, flags[1:]):
        if flag == "--config":
            return following
        if flag.startswith("--config="):
            return flag.removeprefix("--config=")
    return None


def fail(settings: JobSettings | None, message: str, code: int) -> int:
    """Say why, a line a problem; gives the exit code back."""
    json = isinstance(settings, LogSettings) and settings.log == "json"
    for line in message.splitlines() or [message]:
        if json:
            JsonLog().error("error", line, exit_code=code)
        print(f"error: {line}", file=sys.stderr)
    return code
