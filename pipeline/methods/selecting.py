"""Many proposals of the same objects → one of each.

Non-maximum suppression, greedy as usual: whatever rivals a better one that was taken is dropped.
But a chain of rivals is followed for so many links only, so that what becomes of a proposal is
decided by what lies near it: law 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.overlaps import boxes_meet, shared_windows
from pipeline.records import Box

ROUNDS = 4
"""Links of a chain of rivals."""
_INSIDE = 0.7  # of a proposal that lies inside of another of its class: the same object
_SLIVER = 0.08  # of the smaller of two objects: sharing less is an error at their border
_CELL = 64  # pixels, side of the cells in which neighbours are looked for


@dataclass(frozen=True)
class Proposal:
    """What one pixel says of the object around it."""

    order: tuple[int, int, int]
    """How deep the pixel lies, and its y and x times -1: the larger, the better."""
    class_id: int
    box: Box
    mask: NDArray[np.bool_]
    """(H, W) over the box."""
    outness: NDArray[np.float64]
    """(H, W) over the box: 0 at the pixel that proposes, 1 at the edge."""

    @property
    def place(self) -> tuple[int, int]:
        """The pixel (y, x) that proposes it."""
        return -self.order[1], -self.order[2]

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))


def select(offered: Sequence[Proposal], overlap: float, min_area: int) -> list[Proposal]:
    """One of each object, in the order of the proposals.

    Args:
        overlap: IoU from which two proposals are of one object.
        min_area: pixels of the smallest that is looked at.
    """
    proposals = [one for one in offered if one.area >= min_area]
    rivals: list[list[int]] = [[] for _ in proposals]
    areas = [one.area for one in proposals]
    for i, j in _neighbours(proposals):
        shared = _shared(proposals[i], proposals[j])
        if shared and _are_rivals(proposals[i], proposals[j], shared, areas[i], areas[j], overlap):
            better, worse = (i, j) if proposals[i].order > proposals[j].order else (j, i)
            rivals[worse].append(better)
    taken: dict[int, bool] = {}
    for _ in range(ROUNDS):
        decided = {}
        for number, above in enumerate(rivals):
            if number in taken:
                continue
            if any(taken.get(one) for one in above):
                decided[number] = False
            elif all(one in taken for one in above):
                decided[number] = True
        taken |= decided
    return [one for number, one in enumerate(proposals) if taken.get(number)]


def without_slivers(chosen: Sequence[Proposal]) -> list[Proposal]:
    """Where objects only touch, each pixel belongs to the one in which it lies deeper."""
    masks = [one.mask.copy() for one in chosen]
    for i, j in _neighbours(chosen):
        one, other = chosen[i], chosen[j]
        shared = _shared(one, other)
        if not shared or shared >= _SLIVER * min(one.area, other.area):
            continue
        mine, its = shared_windows(one.box, other.box)
        both = one.mask[mine] & other.mask[its]
        deeper = one.outness[mine] < other.outness[its]
        masks[i][mine] &= ~(both & ~deeper)
        masks[j][its] &= ~(both & deeper)
    return [replace(one, mask=mask) for one, mask in zip(chosen, masks, strict=True)]


def _are_rivals(
    one: Proposal, other: Proposal, shared: int, area: int, other_area: int, overlap: float
) -> bool:
    if shared >= overlap * (area + other_area - shared):
        return True
    return one.class_id == other.class_id and shared >= _INSIDE * min(area, other_area)


def _neighbours(proposals: Sequence[Proposal]) -> list[tuple[int, int]]:
    """Pairs whose boxes share pixels, each once."""
    cells: dict[tuple[int, int], list[int]] = {}
    for number, one in enumerate(proposals):
        for y in range(one.box.y0 // _CELL, (one.box.y1 - 1) // _CELL + 1):
            for x in range(one.box.x0 // _CELL, (one.box.x1 - 1) // _CELL + 1):
                cells.setdefault((y, x), []).append(number)
    pairs = {pair for inside in cells.values() for pair in combinations(inside, 2)}
    return sorted(pair for pair in pairs if boxes_meet(*(proposals[n].box for n in pair)))


def _shared(one: Proposal, other: Proposal) -> int:
    mine, its = shared_windows(one.box, other.box)
    return int(np.count_nonzero(one.mask[mine] & other.mask[its]))
