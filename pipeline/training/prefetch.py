"""Making the next items while the present one is used."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def prefetch(
    items: Iterator[T], depth: int = 3, device: torch.device | None = None
) -> Generator[T, None, None]:
    """The same items, made in a thread ahead of their use; at most `depth` of them wait.

    PyTorch computes them on one core, and keeps its threads for those who use the items: two teams
    of threads on the same cores wait for one another at every operation. For the same reason a GPU
    computes them in a stream of its own; what is handed over is done.

    Args:
        device: where the items are computed, if not on the CPU.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        torch.set_num_threads(1)  # of operations that this thread begins
        try:
            with _own_stream(device) as wait:
                for item in items:
                    wait()
                    put(item)
                    if stop.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)  # raised where the items are used

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _own_stream(device: torch.device | None) -> Iterator[Callable[[], None]]:
    """Yields what waits for the work of this thread on the device."""
    if device is None or device.type != "cuda":
        yield lambda: None
        return
    # Short work, that long work is waiting for.
    stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        yield stream.synchronize
