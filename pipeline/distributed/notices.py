"""Keeps known notices of Ray's off the terminal; everything else passes.

Ray 2.60 prints a line for every restartable actor whose arguments are in the object store, which
is every actor of a Ray Data graph (ray#53727), and a paragraph for every process that dies, of
which `rounds` tells in its own words. The former go straight to file descriptor 2, out of Python's
reach; the latter to standard output, among what may be JSON for a program. Their only switch would
silence the logs of the whole cluster.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO, cast

_KNOWN = (
    b"has constructor arguments in the object store and max_restarts > 0",
    b"A worker died or was killed while executing a task by an unexpected system error",
    b"so the task will be retried",
)
_LISTENER = "ray_listen_error_messages"
"""Name of the thread in which Ray prints what the cluster reports."""

_RAYS_LINE = "(raylet)"
_COLOUR = 16  # characters at the start of a line within which that stands


@contextlib.contextmanager
def without_known_notices() -> Iterator[None]:
    """Filter this process's standard error by line while the `with` lasts."""
    sys.stderr.flush()
    terminal = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_pass_on, args=(reading, terminal), daemon=True)
    thread.start()
    try:
        with contextlib.redirect_stdout(cast(TextIO, _OutputOfOurs(sys.stdout))):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # closes the pipe's end, so the thread sees the end of it
        thread.join(timeout=2)  # a child that still holds the pipe must not hold us
        os.close(terminal)


class _OutputOfOurs:
    """Standard output, but for what Ray prints of its cluster, which goes to standard error.

    Most of it comes from Ray's listener; what that has held back, from whoever ends Ray.
    """

    def __init__(self, ours: TextIO) -> None:
        self._ours = ours
        self._in_rays_line = False

    def write(self, text: str) -> int:
        listening = threading.current_thread().name == _LISTENER
        if listening or self._in_rays_line or _RAYS_LINE in text[:_COLOUR]:
            self._in_rays_line = not text.endswith("\n")
            return os.write(2, text.encode())
        return self._ours.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)


def _pass_on(reading: int, terminal: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        rest = b""
        while data := pipe.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not any(known in line for known in _KNOWN):
                    os.write(terminal, line + b"\n")
        os.write(terminal, rest)
