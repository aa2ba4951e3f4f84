"""Results as they come, without being deaf to anything else meanwhile."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_LISTEN_SECONDS = 0.2
_CLOSE_SECONDS = 5.0


def listening(items: Generator[T, Any, Any], check: Callable[[], None]) -> Iterator[T]:
    """The items, with `check` called again and again while the next one is waited for.

    When `check` raises, or the caller has had enough, the generator is closed after its current
    item; whoever can't wait for that ends the process or its Ray session.
    """
    results: queue.Queue[tuple[str, Any]] = queue.Queue()
    enough = threading.Event()

    def take() -> None:
        try:
            for item in items:
                results.put(("item", item))
                if enough.is_set():
                    items.close()
                    return
            results.put(("end", None))
        except BaseException as error:  # the caller's to handle
            results.put(("error", error))

    thread = threading.Thread(target=take, name="results", daemon=True)
    thread.start()
    try:
        while True:
            check()
            try:
                what, value = results.get(timeout=_LISTEN_SECONDS)
            except queue.Empty:
                continue
            if what == "end":
                return
            if what == "error":
                raise value
            yield value
    finally:
        enough.set()
        thread.join(_CLOSE_SECONDS)
