"""Which errors are tried again, and how long.

Only `UnavailableError` is: a definite answer stays what it is. This comes on top of the client's
own quick retries, and is slower, for a store that needs seconds to recover.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from pipeline.errors import UnavailableError
from pipeline.storage.faults import named

T = TypeVar("T")

TRIES = 5
LONGEST = 240.0
"""Seconds after which a failed try is the last: each may itself have waited minutes."""
FIRST_WAIT = 0.5
"""Seconds; the waits are 0.5, 1.5, 4.5 and 13.5, each with up to a half more, 30 in all."""


def retried(call: Callable[[], T], uri: str, verb: str, fs: Any = None, path: str = "") -> T:
    """Call until it answers or fails for good; errors are those of `faults.named`."""
    policy = Retrying(
        retry=retry_if_exception_type(UnavailableError),
        stop=stop_after_attempt(TRIES) | stop_after_delay(LONGEST),
        wait=_wait,
        reraise=True,
    )
    answer: T = policy(_named_call, call, uri, verb, fs, path)
    return answer


def outlasting(
    call: Callable[[], T],
    seconds: float,
    on_trouble: Callable[[UnavailableError], None] = lambda error: None,
) -> T:
    """Call again and again, each time with all that patience, while a store is away.

    Args:
        call: does what may be done twice.
        seconds: after which a failure is the last.
        on_trouble: is told of the first failure.

    Raises:
        StorageError: one of its kinds.
    """
    end, told = time.monotonic() + seconds, False
    while True:
        try:
            return call()
        except UnavailableError as error:
            if time.monotonic() >= end:
                raise
            if not told:
                on_trouble(error)
            told = True


def _wait(state: Any) -> float:
    base = wait_exponential(multiplier=FIRST_WAIT, exp_base=3)(state)
    # Many workers meet the same fault at once; they should not all come back at once.
    return base + wait_random(0, base / 2)(state)


def _named_call(call: Callable[[], T], uri: str, verb: str, fs: Any, path: str) -> T:
    with named(uri, verb, fs, path):
        return call()
