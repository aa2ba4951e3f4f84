"""Keeps one known notice of Ray's C++ core off the terminal; everything else passes.

Ray 2.60 prints a line for every restartable actor whose arguments are in the object store, which
is every actor of a Ray Data graph (ray#53727). It goes straight to file descriptor 2, out of
Python's reach, and its only switch would silence the logs of the whole cluster.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_KNOWN = b"has constructor arguments in the object store and max_restarts > 0"


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
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # closes the pipe's end, so the thread sees the end of it
        thread.join(timeout=2)  # a child that still holds the pipe must not hold us
        os.close(terminal)


def _pass_on(reading: int, terminal: int) -> None:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        rest = b""
        while data := pipe.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if _KNOWN not in line:
                    os.write(terminal, line + b"\n")
        os.write(terminal, rest)
