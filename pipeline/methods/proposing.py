"""What a network says of each pixel → proposals; and those that were taken → objects.

Whatever is decided here is decided by what lies near: law 3.

Legend: H height, W width, R rays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.methods.components import grow
from pipeline.methods.selecting import Proposal
from pipeline.methods.stars import star_mask
from pipeline.records import Box, ObjectMask

GROWTH = 5
"""Pixels around a star that may belong to its object."""
_APART = 2  # pixels around a proposing pixel that none is deeper
_BLUR = np.array([1.0, 2.0, 1.0])  # whole numbers: no sum is ever rounded
_RIM = 0.6  # of the way to an object's edge, beyond which its class decides what belongs to it


@dataclass(frozen=True)
class Planes:
    """What a network says of each pixel of a window, (H, W) each."""

    foreground: NDArray[np.bool_]
    """Whether it belongs to an object."""
    thing: NDArray[np.uint8]
    """The likeliest class of things."""
    depth: NDArray[np.uint8]
    """How deep inside of its object it lies, 255 for the deepest pixel."""
    rays: NDArray[np.uint8]
    """(H, W, R) how far its object goes from there."""


def propose(planes: Planes, threshold: float, unit: float) -> list[Proposal]:
    """What the pixels propose that lie deepest, in their order.

    Args:
        threshold: of the depth, 0 to 1.
        unit: pixels that a step of the rays stands for.
    """
    blurred = cv2.sepFilter2D(planes.depth.astype(np.float64), cv2.CV_64F, _BLUR, _BLUR)
    depth = np.asarray(blurred, np.float64)
    deep = planes.foreground & (depth >= threshold * 255 * _BLUR.sum() ** 2)
    return [
        _proposal((int(depth[y, x]), -y, -x), planes.rays[y, x] * unit, planes)
        for y, x in np.argwhere(deep & _is_peak(depth)).tolist()
    ]


def outlined(
    chosen: Sequence[Proposal], planes: Planes, min_area: int
) -> Iterator[tuple[tuple[int, int], ObjectMask]]:
    """The pixel that stands for each object, and its mask, with the outline of its class.

    An object takes pixels of its class around it that are nobody's, and leaves pixels near its
    edge that are of another class, unless it is an object of that class that lies over it.
    """
    thing = planes.thing
    claimed = {one.class_id: np.zeros(thing.shape, bool) for one in chosen}
    labels = {class_id: np.zeros(thing.shape, np.int32) for class_id in claimed}
    for number, one in enumerate(chosen, 1):
        window = _window(one.box)
        claimed[one.class_id][window] |= one.mask
        labels[one.class_id][window][one.mask] = number
    foreign = np.ones(thing.shape, bool)
    for class_id, mine in claimed.items():
        of_class = thing == class_id
        foreign &= ~(mine & of_class)
        free = planes.foreground & of_class & ~mine
        grow(labels[class_id], free, GROWTH)
        labels[class_id][~free] = 0
    for number, one in enumerate(chosen, 1):
        box, window = _grown(one.box, GROWTH, thing.shape), _window(one.box)
        mask = labels[one.class_id][_window(box)] == number
        left = foreign[window] & (thing[window] != one.class_id) & (one.outness > _RIM)
        y, x = one.box.y0 - box.y0, one.box.x0 - box.x0
        mask[y : y + one.mask.shape[0], x : x + one.mask.shape[1]] |= one.mask & ~left
        if np.count_nonzero(mask) >= min_area:
            yield one.place, _tight(one.class_id, box, mask)


def _is_peak(depth: NDArray[np.floating]) -> NDArray[np.bool_]:
    """No pixel around is deeper; of equals, the first."""
    side = 2 * _APART + 1
    earlier = np.zeros(side * side, np.uint8)
    earlier[: side * side // 2] = 1
    before = cv2.dilate(depth, earlier.reshape(side, side))
    after = cv2.dilate(depth, earlier[::-1].reshape(side, side).copy())
    peak: NDArray[np.bool_] = (depth > before) & (depth >= after)
    return peak


def _proposal(
    order: tuple[int, int, int], lengths: NDArray[np.float64], planes: Planes
) -> Proposal:
    """The star around a pixel, as far as it is foreground and in one piece with that pixel."""
    y, x = -order[1], -order[2]
    star, out, half = star_mask(lengths)
    box = _grown(Box(y, x, y + 1, x + 1), half, planes.thing.shape)
    y0, x0 = box.y0 - (y - half), box.x0 - (x - half)
    inner = (slice(y0, y0 + box.y1 - box.y0), slice(x0, x0 + box.x1 - box.x0))
    seen = (star[inner] & planes.foreground[_window(box)]).astype(np.uint8)
    pieces = cv2.connectedComponents(seen, connectivity=4)[1]
    mask = pieces == pieces[y - box.y0, x - box.x0]
    class_id = int(np.bincount(planes.thing[_window(box)][mask]).argmax())
    return Proposal(order, class_id, box, mask, out[inner])


def _window(box: Box) -> tuple[slice, slice]:
    return slice(box.y0, box.y1), slice(box.x0, box.x1)


def _grown(box: Box, pixels: int, shape: tuple[int, ...]) -> Box:
    return Box(
        max(box.y0 - pixels, 0),
        max(box.x0 - pixels, 0),
        min(box.y1 + pixels, shape[0]),
        min(box.x1 + pixels, shape[1]),
    )


def _tight(class_id: int, box: Box, mask: NDArray[np.bool_]) -> ObjectMask:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    bottom, right = int(rows[-1]) + 1, int(columns[-1]) + 1
    tight = Box(box.y0 + top, box.x0 + left, box.y0 + bottom, box.x0 + right)
    return ObjectMask.pack(0, class_id, tight, mask[top:bottom, left:right])
