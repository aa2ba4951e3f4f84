"""Which image of a shard ends the process that works on it, or keeps it for ever.

A decoder that crashes, or an image that takes all memory, kills a process without a word. The
shard is tried again in halves, each in a process of its own, until the images that do it are
found; they become rejects, and their shard is computed without them.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayError

from pipeline.distributed.blocks import Block, block_of, to_table
from pipeline.distributed.failures import Failure
from pipeline.distributed.stages import CommitShard, GraphSettings, PredictShard, read_shard
from pipeline.errors import TesseraError
from pipeline.records import Shard, SourceImage

Poison = Mapping[str, tuple[str, str]]
"""Image id → code and message of its reject."""

_LISTEN_SECONDS = 0.5
_ONCE_MORE = 2  # a process may also die for reasons of its own


def find_poison(shard: Shard, settings: GraphSettings, check: Callable[[], None]) -> Poison:
    """The images of a shard that can't be worked on; empty when each can.

    Args:
        check: called between tries; raises to end the search.
    """

    def search(images: Sequence[SourceImage]) -> dict[str, tuple[str, str]]:
        reason = None
        for _ in range(_ONCE_MORE if len(images) == 1 else 1):
            reason = _try(Shard(shard.id, tuple(images)), settings, check)
            if reason is None:
                return {}
        if len(images) == 1 and reason is not None:
            return {images[0].image_id: reason}
        half = len(images) // 2
        return search(images[:half]) | search(images[half:])

    return search(shard.images)


def _try(
    shard: Shard, settings: GraphSettings, check: Callable[[], None]
) -> tuple[str, str] | None:
    """Code and message of what the images do, if it is they who do it."""
    block = to_table(Block.planned(shard, {}))
    steps: Any = _work_on.options(num_returns="streaming").remote(block, settings)
    return watched(steps, settings.predict.stall_seconds, check)


def watched(steps: Any, longest: float, check: Callable[[], None]) -> tuple[str, str] | None:
    """Code and message of what a process of its own comes to, if it is the work that does it.

    Args:
        steps: of a streaming task: whether it is ready to work, then its failure or None.
        longest: seconds that the work may take.
    """
    # Until the process and the model are there, nothing that happens is the images' doing, however
    # long the cluster has no room.
    _wait(steps, check)
    try:
        ready: bool = ray.get(next(steps))
    except RayError:
        ready = False
    if not ready:
        return None
    if not _wait(steps, check, longest):
        ray.cancel(steps, force=True)
        return "hang", f"keeps the process that works on it for more than {longest} s"
    try:
        failure: Failure | None = ray.get(next(steps))
    except OutOfMemoryError:
        return "memory", "needs more memory than a process of this cluster may have"
    except RayError as error:
        return "crash", f"ends the process that works on it ({type(error).__name__})"
    if failure is None or failure.of_the_store or failure.too_large:
        return None
    failure.raise_if_fatal()
    if failure.kind == MemoryError.__name__:
        return "memory", "needs more memory than a process may have"
    return "defect", f"{failure.message}; please report this"


def _wait(steps: Any, check: Callable[[], None], longest: float = math.inf) -> bool:
    """Until the next step is done; false where that takes longer, in seconds."""
    end = time.monotonic() + longest
    while not ray.wait([steps], timeout=_LISTEN_SECONDS)[0]:
        check()
        if time.monotonic() > end:
            return False
    return True


# A process of its own, which nothing that worked before has touched.
@ray.remote(max_retries=0, max_calls=1)
def _work_on(table: pa.Table, settings: GraphSettings) -> Iterator[bool | Failure | None]:
    """All that a prediction does but for the writing: whether it is ready, then what went wrong."""
    try:
        predict, commit = PredictShard(settings, threads=1), CommitShard(settings)
    except TesseraError:  # such as a bundle that can't be read at the moment
        yield False
        return
    yield True
    table = predict(read_shard(table, settings.predict))
    block = block_of(table)
    if block.failure is not None:
        yield block.failure
        return
    try:
        commit.decode(block, table)
    except Exception as error:  # any at all is the finding
        yield Failure.of(error)
        return
    yield None
