"""How images become shards: in order, within limits, with ids that say what they hold."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.config import fingerprint


def shard_id(
    results: str, image_ids: Sequence[str], old_shards: Iterable[str], partition: str = ""
) -> str:
    """Of a shard with these images, in order, that replaces rows of these shards.

    Args:
        results: fingerprint of the model and the settings that change results.
        image_ids: of its images.
        old_shards: where the rows lie that it replaces.
        partition: where it lies itself: images may come back in another one.
    """
    place = [partition] if partition else []
    return fingerprint([results, *image_ids, *sorted(set(old_shards)), *place])


def shard_ends(
    partitions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    images_per_shard: int,
    bytes_per_shard: int,
) -> list[int]:
    """Where shards of consecutive rows end; the last one would hold more if more rows came.

    A shard never crosses a partition and respects both limits; one image may pass the bytes alone.

    Args:
        partitions: (N,) equal numbers for rows of one partition.
        sizes: (N,) bytes, negative where they are not known, which counts as none.
    """
    n = len(sizes)
    total = np.concatenate([[0], np.cumsum(np.maximum(sizes, 0))])
    borders = [*(np.flatnonzero(np.diff(partitions)) + 1).tolist(), n]
    ends: list[int] = []
    start = 0
    for border in borders:
        while start < border:
            fitting = int(np.searchsorted(total, total[start] + bytes_per_shard, "right")) - 1
            start = max(min(start + images_per_shard, fitting, border), start + 1)
            ends.append(start)
    return ends
