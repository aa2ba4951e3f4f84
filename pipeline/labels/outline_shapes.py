"""Rings of points → an object's mask: areas less their holes."""

import numpy as np
from numpy.typing import NDArray

from pipeline.labels.coco_masks import draw
from pipeline.labels.compose import Shape, tight_shape
from pipeline.labels.outline_files import Ring


def draw_areas(
    areas: list[list[Ring]],
    class_id: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    where: str,
) -> Shape | None:
    """All areas of an object without their holes; None where no pixel is left."""

    def ring_shape(ring: Ring) -> Shape | None:
        scaled = (np.reshape(ring, (-1, 2)) * scale).ravel().tolist()
        return draw([scaled], class_id, *size, where)

    solid = [(shape, holes) for ring, *holes in areas if (shape := ring_shape(ring))]
    if not solid:
        return None
    y0, x0 = (min(getattr(shape.box, side) for shape, _ in solid) for side in ("y0", "x0"))
    y1, x1 = (max(getattr(shape.box, side) for shape, _ in solid) for side in ("y1", "x1"))
    mask: NDArray[np.bool_] = np.zeros((y1 - y0, x1 - x0), bool)
    for shape, holes in solid:
        area = np.zeros_like(mask)
        for value, drawn in ((True, shape), *((False, ring_shape(hole)) for hole in holes)):
            if drawn is not None:
                _set(area, drawn, value, y0, x0)
        mask |= area
    return tight_shape(class_id, mask, y0, x0)


def _set(area: NDArray[np.bool_], shape: Shape, value: bool, y0: int, x0: int) -> None:
    """Set an object's pixels in an area whose corner lies at (y0, x0), where they lie in it."""
    height, width = area.shape
    top, left = shape.box.y0 - y0, shape.box.x0 - x0
    rows = slice(max(top, 0), min(top + shape.mask.shape[0], height))
    columns = slice(max(left, 0), min(left + shape.mask.shape[1], width))
    if rows.start < rows.stop and columns.start < columns.stop:
        inside = shape.mask[rows.start - top : rows.stop - top, columns.start - left :][
            :, : columns.stop - columns.start
        ]
        area[rows, columns][inside] = value
