"""Objects that may overlap: drawn into maps, and looked at pixel by pixel.

Where objects share a pixel, the one of fewer pixels lies on top, and of equals the later one, as in
labels.

Legend: H height, W width, N objects, P pixels of objects, shared ones once for each.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.records import Box, InstanceMap, Label, ObjectMask


def areas_of(objects: Sequence[ObjectMask]) -> NDArray[np.int64]:
    """(N,) pixels of each."""
    bits = [np.frombuffer(one.bits, np.uint8) for one in objects]
    return np.array([int(np.bitwise_count(one).sum()) for one in bits], np.int64)


def draw_objects(objects: Sequence[ObjectMask], shape: tuple[int, int]) -> InstanceMap:
    """(H, W) with the id of the object on top."""
    drawn = np.zeros(shape, np.int32)
    for number in np.argsort(-areas_of(objects), kind="stable"):
        one = objects[number]
        drawn[one.box.y0 : one.box.y1, one.box.x0 : one.box.x1][one.mask()] = one.id
    return drawn


def draw_covered(label: Label, window: Box) -> InstanceMap:
    """(H, W) of a window: the id of the object right below the one that the label shows."""
    shape = (window.y1 - window.y0, window.x1 - window.x0)
    covered = np.zeros(shape, np.int32)
    inside = [one for one in label.objects if boxes_meet(one.box, window)]
    for number in np.argsort(-areas_of(inside), kind="stable"):
        one = inside[number]
        there, here = shared_windows(one.box, window)
        shown = label.instances[window.y0 : window.y1, window.x0 : window.x1][here]
        covered[here][one.mask()[there] & (shown != one.id)] = one.id
    return covered


def pixels_of(
    objects: Sequence[ObjectMask],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each pixel the object, from 0, and its y and x in the image: (P,) each."""
    owner, rows, columns = [_NONE], [_NONE], [_NONE]
    for number, one in enumerate(objects):
        y, x = np.nonzero(one.mask())
        owner.append(np.full(len(y), number, np.int64))
        rows.append(y + one.box.y0)
        columns.append(x + one.box.x0)
    return np.concatenate(owner), np.concatenate(rows), np.concatenate(columns)


def memberships(objects: Sequence[ObjectMask], shape: tuple[int, int]) -> csr_array:
    """Sparse (N + 1, H * W): 1 where a pixel belongs to the object of that id; row 0 is empty.

    Args:
        objects: whose ids are up to N.
    """
    owner, y, x = pixels_of(objects)
    ids = np.array([one.id for one in objects], np.int64)
    n = int(ids.max(initial=0))
    ones = np.ones(len(owner), np.int64)
    return csr_array((ones, (ids[owner], y * shape[1] + x)), shape=(n + 1, shape[0] * shape[1]))


def membership_of(instances: InstanceMap) -> csr_array:
    """The same of the objects of an (H, W) map."""
    flat = instances.ravel()
    pixels = np.flatnonzero(flat)
    ones = np.ones(len(pixels), np.int64)
    return csr_array(
        (ones, (flat[pixels], pixels)), shape=(int(flat.max(initial=0)) + 1, flat.size)
    )


_NONE = np.zeros(0, np.int64)


def boxes_meet(one: Box, other: Box) -> bool:
    """Whether they share pixels."""
    return one.y0 < other.y1 and other.y0 < one.y1 and one.x0 < other.x1 and other.x0 < one.x1


Window = tuple[slice, slice]
"""Rows and columns of an array."""


def shared_windows(one: Box, other: Box) -> tuple[Window, Window]:
    """The pixels that two boxes share, which they must, in an array over each of them."""
    y0, x0 = max(one.y0, other.y0), max(one.x0, other.x0)
    y1, x1 = min(one.y1, other.y1), min(one.x1, other.x1)

    def window(box: Box) -> Window:
        return slice(y0 - box.y0, y1 - box.y0), slice(x0 - box.x0, x1 - box.x0)

    return window(one), window(other)
