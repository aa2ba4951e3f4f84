"""What every job does around its work: settings in, one line on failure, an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 too many rejects (see `jobs.predict`), 4 a
dataset that is not whole (see `jobs.verify`), 128 and the signal's number when a signal has stopped
the job, as shells have it: 143 SIGTERM, 130 Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TypeVar

from pipeline import storage
from pipeline.config import JobSettings
from pipeline.errors import SettingsError, StorageError, TesseraError
from pipeline.parsing import load, parse_yaml

S = TypeVar("S", bound=JobSettings)

DONE, FAILED, WRONG_USAGE, TOO_MANY_REJECTS, DAMAGED = 0, 1, 2, 3, 4


def run_job(kind: type[S], work: Callable[[S], int], flags: Sequence[str] | None = None) -> int:
    """Settings from flags (by default the command line's) → work → exit code."""
    try:
        return work(read_settings(kind, sys.argv[1:] if flags is None else flags))
    except SettingsError as error:
        return _fail(str(error), WRONG_USAGE)
    except TesseraError as error:
        return _fail(str(error), FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", stopped_by(signal.SIGINT))
    except BrokenPipeError:
        # The reader of our output has left, as `head` does. Nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def stopped_by(number: int) -> int:
    """The exit code of a job that a signal has stopped."""
    return 128 + number if number else FAILED


def read_settings(kind: type[S], flags: Sequence[str]) -> S:
    """Defaults, then the file that `--config` names, then flags."""
    values = {}
    path = _config_path(flags)
    if path is not None:
        try:
            text = storage.read_bytes(path).decode()
        except (StorageError, UnicodeDecodeError) as error:
            raise SettingsError(f"settings file: {error}") from error
        values = parse_yaml(text, path)
    return load(kind, flags, values)


def _config_path(flags: Sequence[str]) -> str | None:
    for flag, following in zip_longest(flags, flags[1:]):
        if flag == "--config":
            return following
        if flag.startswith("--config="):
            return flag.removeprefix("--config=")
    return None


def _fail(message: str, code: int) -> int:
    for line in message.splitlines() or [message]:
        print(f"error: {line}", file=sys.stderr)
    return code
