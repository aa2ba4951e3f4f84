"""Parts of objects → whole objects: sums add up, masks join as runs of pixels.

A *run* is pixels of one column that follow one another: x, y0, y1, half-open, in the image. A mask
of any size is as many rows of three numbers as its outline needs, never a bitmap of its box.

Legend: G objects, N parts, R runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.predicting.objects import ObjectSums
from pipeline.records import InstanceMap

T = TypeVar("T", bound=np.generic)

_LONGEST = 2**29 - 1
"""Pixels of a run: what six characters of COCO's code tell, and maskApi.c holds."""


def merge_sums(parts: ObjectSums, owner: NDArray[np.int64], n: int) -> ObjectSums:
    """The sums of n objects from those of their parts.

    Args:
        owner: (N,) which object each part belongs to, from 0.
    """
    boxes = np.zeros((n, 4), np.int64)
    boxes[:, :2] = np.iinfo(np.int64).max
    np.minimum.at(boxes[:, :2], owner, parts.boxes[:, :2])
    np.maximum.at(boxes[:, 2:], owner, parts.boxes[:, 2:])
    # Squares of far places may not fit in 64 bits; Python's own numbers are slow, and have no end.
    longest = int((boxes[:, 2:] - boxes[:, :2]).max(initial=0))
    exact: Any = np.int64 if longest**2 * int(parts.areas.sum()) < 1 << 63 else np.object_
    y, x = (parts.boxes[:, :2] - boxes[owner, :2]).T.astype(exact)
    area = parts.areas.astype(exact)
    sy, sx, syy, sxx, sxy = parts.moments.T.astype(exact)
    moved = np.stack(
        [
            sy + y * area,
            sx + x * area,
            syy + 2 * y * sy + y * y * area,
            sxx + 2 * x * sx + x * x * area,
            sxy + y * sx + x * sy + y * x * area,
        ],
        axis=1,
    )
    whole = ObjectSums(
        boxes=boxes,
        areas=add_up(parts.areas, owner, n),
        moments=add_up(moved, owner, n),
        values=add_up(parts.values, owner, n),
        deviations=add_up(parts.deviations, owner, n),
    )
    apart = (parts.means - whole.means[owner]) ** 2 * parts.areas[:, None]
    return replace(whole, deviations=whole.deviations + add_up(apart, owner, n))


def add_up(values: NDArray[T], owner: NDArray[np.int64], n: int) -> NDArray[T]:
    """(N, ...) of parts → (G, ...) of objects."""
    total = np.zeros((n, *values.shape[1:]), values.dtype)
    np.add.at(total, owner, values)
    return total


def runs_of(
    instances: InstanceMap, labels: Sequence[int], corner: tuple[int, int]
) -> list[NDArray[np.int32]]:
    """(R, 3) runs of each of these labels of an (H, W) map that begins at `corner`."""
    chosen = np.zeros(int(instances.max(initial=0)) + 1, bool)
    chosen[list(labels)] = True
    x, y = np.nonzero(chosen[instances].T)  # column by column, and down each
    found = instances[y, x]
    begins = np.ones(len(x), bool)
    begins[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1] + 1) | (found[1:] != found[:-1])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(x))
    top = y[starts] + corner[0]
    runs = np.stack([x[starts] + corner[1], top, top + lengths], 1).astype(np.int32)
    owner = found[starts]
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], [[label, label + 1] for label in labels])
    return [runs[order[a:b]] for a, b in bounds.reshape(-1, 2)]


def encode_runs(runs: NDArray[np.int32], box: Sequence[int]) -> str:
    """COCO compressed RLE over the box of a mask that is given in (R, 3) runs, in any order."""
    y0, x0, y1, x1 = (int(edge) for edge in box)
    height, width = y1 - y0, x1 - x0
    column = (runs[:, 0].astype(np.int64) - x0) * height
    starts, ends = column + runs[:, 1] - y0, column + runs[:, 2] - y0
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    begins = np.append(True, starts[1:] > ends[:-1])  # others go on where the last one ended
    borders = np.stack([starts[begins], ends[np.append(begins[1:], True)]], 1).ravel()
    counts = _in_steps(np.diff(borders, prepend=0))
    if borders[-1] < height * width:
        counts = np.append(counts, height * width - borders[-1])
    code = {"size": [height, width], "counts": counts.tolist()}
    compressed: bytes = coco_mask.frPyObjects(code, height, width)["counts"]
    return compressed.decode("ascii")


def _in_steps(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths of gaps and runs in turn; runs that are too long as several, without gaps between.

    A gap in an object's box is never as long, and a run of nothing would widen COCO's own boxes.
    """
    if counts[1::2].max() <= _LONGEST:
        return counts
    steps = []
    for gap, run in counts.reshape(-1, 2).tolist():
        more = (run - 1) // _LONGEST
        steps += [gap, *[_LONGEST, 0] * more, run - more * _LONGEST]
    return np.array(steps, np.int64)


def decode_runs(rle: str, box: Sequence[int]) -> NDArray[np.int32]:
    """(R, 3) runs of a mask that is given as COCO compressed RLE over its box: see `encode_runs`.

    Without the bitmap that pycocotools would make, which a large object has no memory for.
    """
    y0, x0, y1, _ = (int(edge) for edge in box)
    height = y1 - y0
    borders = np.cumsum(_counts(rle))  # of nothing, mask, nothing, mask …, column after column
    ends = borders[1::2]
    starts = borders[::2][: len(ends)]
    first = starts // height
    columns = (ends - 1) // height - first + 1  # that each goes through
    owner = np.repeat(np.arange(len(columns)), columns)
    column = first[owner] + np.arange(len(owner)) - (np.cumsum(columns) - columns)[owner]
    top = np.maximum(starts[owner] - column * height, 0)
    bottom = np.minimum(ends[owner] - column * height, height)
    return np.stack([x0 + column, y0 + top, y0 + bottom], 1).astype(np.int32)


def _counts(rle: str) -> NDArray[np.int64]:
    """Lengths of the code's runs, as `rleFrString` in COCO's maskApi.c reads them.

    A number has 5 bits a character, the lowest first, of which a sixth says that it goes on.
    """
    characters = np.frombuffer(rle.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(characters & 0x20 == 0)
    first = np.append(0, last[:-1] + 1)
    shift = 5 * (np.arange(len(characters)) - np.repeat(first, last - first + 1))
    counts: NDArray[np.int64] = np.add.reduceat((characters & 0x1F) << shift, first)
    counts -= (characters[last] & 0x10) << (shift[last] + 1)  # the highest bit is the sign
    # From the fourth on they say how they differ from the last but one.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
