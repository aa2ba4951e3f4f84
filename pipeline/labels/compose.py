"""Objects annotated one by one → maps, and the objects themselves where they overlap.

Where objects overlap, the one of fewer pixels lies on top, and of equals the later one: a small
object that a large one covers would otherwise be lost, a large one keeps most of its pixels.

Legend: H height, W width of the image; h, w of an object's box.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Box, InstanceMap, Label, ObjectMask, SemanticMap


@dataclass(frozen=True)
class Shape:
    """An object's class and its (h, w) mask over its box, which it touches on every side."""

    class_id: int
    box: Box
    mask: NDArray[np.bool_]


def tight_shape(class_id: int, mask: NDArray[np.bool_], y0: int = 0, x0: int = 0) -> Shape | None:
    """The object in a mask whose corner lies at (y0, x0); None where no pixel is set."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    box = Box(y0 + top, x0 + left, y0 + bottom, x0 + right)
    return Shape(class_id, box, mask[top:bottom, left:right])


def compose(shapes: Sequence[Shape], ground: SemanticMap) -> Label:
    """Objects 1 to N, in their order, drawn over the (H, W) class ids of everything else."""
    semantic = ground.copy()
    instances: InstanceMap = np.zeros(ground.shape, np.int32)
    areas = [int(shape.mask.sum()) for shape in shapes]
    for i in sorted(range(len(shapes)), key=lambda i: -areas[i]):
        box, mask = shapes[i].box, shapes[i].mask
        window = (slice(box.y0, box.y1), slice(box.x0, box.x1))
        instances[window][mask] = i + 1
        semantic[window][mask] = shapes[i].class_id
    if sum(areas) == np.count_nonzero(instances):
        return Label(semantic, instances)
    objects = tuple(
        ObjectMask.pack(i, shape.class_id, shape.box, shape.mask)
        for i, shape in enumerate(shapes, start=1)
    )
    return Label(semantic, instances, objects)
