"""Votes of pixels → labels of objects, each pixel's decided by what lies near it.

How far "near" is follows from the image's objects (see `Reach`), so that a window with that much
around it gives the labels that the whole image would: law 3. To that end nothing here depends on
where a window begins: displacements are relative to the pixel, sums are exact in any order, and
what has no bound (objects as large as they like) is only ever a connected component.

Legend: H height, W width, P foreground pixels. Offsets are (y, x), in pixels.
"""

from dataclasses import dataclass

import cc3d
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.methods.components import connected_components, grow
from pipeline.records import InstanceMap

_STEPS = 2  # offsets followed, one after the other
_LONGEST = 2.5  # typical lengths that an offset leads at most
_FAR = 2.0  # typical lengths from its vote to a middle that a pixel joins
_APART = 0.5  # typical lengths that two middles are at least apart
_LEAST_BLUR = 0.8  # pixels
_FEWEST = 0.5  # votes a pixel, smoothed, that a middle has at least
_GROWTH = 24  # pixels that a crumb may be away from the object that takes it
_LEVELS = 2**12  # steps of a blur's weights: sums of their products are exact in 64 bits
_FLAT = 8  # pixels of a flat top that still count as one middle


@dataclass(frozen=True)
class Reach:
    """How far things lead in one image, in pixels."""

    typical: float
    """Median length of the offsets."""
    blur: float
    """Standard deviation by which votes are spread."""
    crumb: int
    """Pieces of fewer pixels are no objects where a larger one is beside them."""

    @property
    def longest(self) -> float:
        """Of one offset, on each axis."""
        return max(_LONGEST * self.typical, 1.0)

    @property
    def far(self) -> float:
        return max(_FAR * self.typical, 2.0)

    @property
    def apart(self) -> int:
        return max(1, round(_APART * self.typical))

    @property
    def spread(self) -> int:
        """Half the width of the blur."""
        return int(np.ceil(4 * max(self.blur, _LEAST_BLUR)))

    @property
    def halo(self) -> int:
        """Pixels around a window that its labels depend on, one pixel beyond it included."""
        voting = 2 * _STEPS * int(np.ceil(self.longest + 0.5))
        piling = self.spread + self.apart + _FLAT + int(np.ceil(self.far))
        return voting + piling + self.crumb + _GROWTH + 2


def label_votes(
    offset: NDArray[np.float32], foreground: NDArray[np.bool_], reach: Reach, min_area: int
) -> InstanceMap:
    """(H, W) objects, numbered from 1 as they come; 0 where there is none.

    Args:
        offset: (2, H, W).
        foreground: (H, W).
        min_area: pixels of the smallest object; at most `reach.crumb`.
    """
    votes = follow(offset, foreground, reach.longest)
    joined = join(votes, foreground, reach)
    return whole_pieces(joined, foreground, reach.crumb, min_area)


def follow(
    offset: NDArray[np.float32], foreground: NDArray[np.bool_], longest: float
) -> NDArray[np.int64]:
    """(2, P) the pixel (y, x) that each foreground pixel's offsets lead to; they end outside."""
    height, width = foreground.shape
    limits = np.array([[height - 1], [width - 1]], np.int64)
    start = np.stack(np.nonzero(foreground))
    way = np.zeros(start.shape, np.float32)
    place = start
    for _ in range(_STEPS):
        y, x = place
        way += offset[:, y, x].clip(-longest, longest) * foreground[y, x]
        way = np.clip(way, -start, limits - start).astype(np.float32, copy=False)
        place = start + np.rint(way).astype(np.int64)
    return place


def join(
    votes: NDArray[np.int64], foreground: NDArray[np.bool_], reach: Reach
) -> NDArray[np.uint32]:
    """(H, W) the number of the middle that each foreground pixel joins; 0 without any near."""
    height, width = foreground.shape
    y, x = votes
    counts = np.bincount(y * width + x, minlength=height * width).reshape(height, width)
    pile = blurred(counts, reach)
    side = 2 * reach.apart + 1
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    is_middle = (pile >= cv2.dilate(pile, near)) & (pile >= _FEWEST)
    # A flat top, or a middle between two pixels, is one.
    middles = connected_components(
        cv2.dilate(is_middle.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0, connectivity=8
    )
    joined = np.zeros(foreground.shape, np.uint32)
    if middles.any():
        joined[foreground] = nearest(middles, reach.far)[y, x]
    return joined


def blurred(counts: NDArray[np.int64], reach: Reach) -> NDArray[np.float32]:
    """Counts spread by a Gaussian, the same whatever is computed beside them.

    Weights are multiples of a power of two, so that no sum is ever rounded, in whatever order
    the processor takes it.
    """
    sigma = max(reach.blur, _LEAST_BLUR)
    gauss = np.exp(-(np.arange(-reach.spread, reach.spread + 1) ** 2) / (2 * sigma**2))
    weights = np.rint(gauss / gauss.sum() * _LEVELS)
    pile = cv2.sepFilter2D(counts.astype(np.float64), cv2.CV_64F, weights, weights)
    smooth: NDArray[np.float32] = (pile / weights.sum() ** 2).astype(np.float32)
    return smooth


def whole_pieces(
    joined: NDArray[np.uint32], foreground: NDArray[np.bool_], crumb: int, min_area: int
) -> InstanceMap:
    """Objects in one piece each. Crumbs are taken by an object that they touch, if it is near.

    What no object takes is one of its own: too small or too faint to have a middle, but seen.
    """
    pieces = cc3d.connected_components(joined, connectivity=4).astype(np.int32)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    labels = np.where((areas >= crumb)[pieces], pieces, 0)
    grow(labels, foreground & (labels == 0), _GROWTH)
    left = connected_components(foreground & (labels == 0), connectivity=8)
    kept = np.bincount(left.ravel()) >= min_area
    kept[0] = False
    return np.where(kept[left], left + len(areas), labels).astype(np.int32)


def nearest(labels: NDArray[np.integer], far: float) -> NDArray[np.int32]:
    """(H, W) the label, above 0, that is nearest to each pixel; 0 where none is near enough."""
    outside = (labels == 0).astype(np.uint8)
    distance, place = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(place.max()) + 1, np.int32)
    owner[place[labels > 0]] = labels[labels > 0]
    return np.where(distance <= far, owner[place], 0).astype(np.int32)
