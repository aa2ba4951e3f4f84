"""Parts of objects in neighbouring regions → objects of the image.

Each region labels its core and the pixels one further to the right and below. Where two regions
have labelled the same pixel, they mean the same object. So what is looked at are lines of labels
along the seams, and what is held is in proportion to them, not to the image or to its objects.

Parts are numbered through the regions, row by row, and through the labels of each. An object has
the number of its first part, counted without those that another part already stands for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Line = NDArray[np.int32]
"""Labels along one side of a region, 0 where there is no object."""


@dataclass(frozen=True)
class Seams:
    """What one region says to its neighbours."""

    n: int
    """Labels in its core, 1 to n."""
    top: Line
    """Its core's first row."""
    left: Line
    """Its core's first column."""
    right: Line
    """The column behind its core's last; empty at the image's border."""
    below: Line
    """The row under its core, from one pixel before it to one behind it; empty at the border.

    0 in the image's first and last column, beyond which there is nothing.
    """


@dataclass(frozen=True)
class Stitching:
    """Which parts are one object."""

    first: NDArray[np.int64]
    """(regions + 1,) the number of the first part of each region, from 0."""
    absorbed: NDArray[np.int64]
    """Parts that belong to an object with an earlier part, in order."""
    standing: NDArray[np.int64]
    """That earlier part of each, the object's first."""
    torn: int
    """Pixels of seams on which two regions differ about whether there is an object: none."""

    @property
    def n_objects(self) -> int:
        return int(self.first[-1]) - len(self.absorbed)

    def object_ids(self, region: int) -> NDArray[np.int64]:
        """(n,) the object of each label of a region, from 1."""
        parts = np.arange(self.first[region], self.first[region + 1])
        return self.ids_of(parts)

    def ids_of(self, parts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The object of each part."""
        first = parts.copy()
        if len(self.absorbed):
            place = np.searchsorted(self.absorbed, parts).clip(max=len(self.absorbed) - 1)
            inside = self.absorbed[place] == parts
            first[inside] = self.standing[place[inside]]
        ids: NDArray[np.int64] = first + 1 - np.searchsorted(self.absorbed, first, "right")
        return ids


def stitch(grid: tuple[int, int], seams: Sequence[Seams]) -> Stitching:
    """Join what is one object.

    Args:
        grid: regions down and across.
        seams: of each region, row by row.
    """
    first = np.concatenate([[0], np.cumsum([one.n for one in seams])]).astype(np.int64)
    pairs, torn = [np.zeros((0, 2), np.int64)], 0
    for here, there, mine, its in _shared_lines(grid, seams):
        both = (mine > 0) & (its > 0)
        torn += int(((mine > 0) != (its > 0)).sum())
        joined = np.stack([mine[both] + first[here] - 1, its[both] + first[there] - 1], 1)
        # A label beyond those of the core lies on the seam only: nothing of it is here.
        known = mine[both] <= seams[here].n
        pairs.append(np.unique(joined[known], axis=0))
    absorbed, standing = _join(np.concatenate(pairs))
    return Stitching(first, absorbed, standing, torn)


def _shared_lines(
    grid: tuple[int, int], seams: Sequence[Seams]
) -> Iterator[tuple[int, int, Line, Line]]:
    """Two regions and what each says of the same pixels."""
    down, across = grid
    for row in range(down):
        for column in range(across):
            here = row * across + column
            if column + 1 < across:
                yield here, here + 1, seams[here].right, seams[here + 1].left
            if row + 1 == down:
                continue
            below, under = here + across, seams[here].below
            yield here, below, under[1:-1], seams[below].top
            if column > 0:
                yield here, below - 1, under[:1], seams[below - 1].top[-1:]
            if column + 1 < across:
                yield here, below + 1, under[-1:], seams[below + 1].top[:1]


def _join(pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Parts that are not the first of their object, in order, and that first one of each."""
    parts, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    n = len(parts)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(n, n))
    group = connected_components(graph, directed=False)[1] if n else np.zeros(0, np.int64)
    head = np.full(int(group.max(initial=-1)) + 1, n, np.int64)
    np.minimum.at(head, group, np.arange(n))
    standing = parts[head[group]]
    late = standing != parts
    return parts[late], standing[late]
