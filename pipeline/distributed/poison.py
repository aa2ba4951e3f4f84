"""Which image of a shard ends the process that works on it, or keeps it for ever.

A decoder that crashes, or an image that takes all memory, kills a process without a word. The
shard is tried again in halves, each in a process of its own, until the images that do it are
found; they become rejects, and their shard is computed without them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayError

from pipeline.distributed.blocks import Block, block_of, to_table
from pipeline.distributed.stages import CommitShard, GraphSettings, PredictShard, read_shard
from pipeline.records import Shard, SourceImage

Poison = Mapping[str, tuple[str, str]]
"""Image id → code and message of its reject."""

_LISTEN_SECONDS = 0.5
_ONCE_MORE = 2  # a process may also die for reasons of its own
_STORE_AND_LEASE = {
    "UnavailableError", "IncompleteError", "CredentialsError", "LeaseLostError", "StorageError"
}  # fmt: skip


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
    """Code and message of what became of it, if it did not go well."""
    longest = settings.predict.stall_seconds
    trial = _work_on.remote(to_table(Block.planned(shard, {})), settings)
    end = time.monotonic() + longest
    while not ray.wait([trial], timeout=_LISTEN_SECONDS)[0]:
        check()
        if time.monotonic() > end:
            ray.cancel(trial, force=True)
            return "hang", f"keeps the process that works on it for more than {longest} s"
    try:
        kind, message = ray.get(trial)
    except OutOfMemoryError:
        return "memory", "needs more memory than a process of this cluster may have"
    except RayError as error:
        return "crash", f"ends the process that works on it ({type(error).__name__})"
    if not kind or kind in _STORE_AND_LEASE:
        return None
    if kind == "MemoryError":
        return "memory", "needs more memory than a process may have"
    return "defect", f"{message}; please report this"


# A process of its own, which nothing that worked before has touched.
@ray.remote(max_retries=0, max_calls=1)
def _work_on(table: pa.Table, settings: GraphSettings) -> tuple[str, str]:
    """All that a prediction does but for the writing; kind and message of the failure, if any."""
    stages = (
        partial(read_shard, reader=settings.predict.reader),
        PredictShard(settings, threads=1),
    )
    for stage in stages:
        table = stage(table)
    block = block_of(table)
    if block.failure is not None:
        return block.failure.kind, block.failure.message
    try:
        CommitShard(settings).decode(block, table)
    except Exception as error:  # any at all is the finding
        return type(error).__name__, f"{type(error).__name__}: {error}"
    return "", ""
