"""SIGTERM and Ctrl-C as requests: whoever works is asked to stop, and does so in good order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop(threading.Event):
    """An event that a signal sets."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        """Of the signal that came; 0 before."""

    @property
    def name(self) -> str:
        """For people: `SIGTERM`, `Ctrl-C`."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


@contextmanager
def stop_on_signals(*numbers: signal.Signals) -> Iterator[Stop]:
    """An event that a signal sets, instead of ending the process, while the `with` lasts.

    The same signal again does what it always does: whoever presses Ctrl-C twice means it. Only a
    process's main thread may listen to signals; in any other nothing sets the event.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.number = number
        stop.set()
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
