"""COCO segmentations → masks: polygons, and run-length codes as numbers or as text.

Run-length codes are unpacked here rather than by pycocotools, which leaves the pixels after the
last run as they were in memory where runs don't add up to the image. Legend: H height, W width.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.errors import DataError
from pipeline.labels.compose import Shape, tight_shape

NO_SHAPE = "has no segmentation"
_OVERHANG = 1.0  # image sizes that a polygon may reach beyond the image


def segmentation_problem(segmentation: object) -> str | None:
    """What is wrong with its structure, as the rest of a sentence; None if nothing is."""
    if isinstance(segmentation, dict):
        return _rle_problem(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return NO_SHAPE
    for polygon in segmentation:
        if not isinstance(polygon, list):
            return "has a polygon that is no list of coordinates"
        if not all(type(c) in (int, float) and math.isfinite(c) for c in polygon):
            return "has a polygon with a coordinate that is no number"
        if len(polygon) % 2:
            return f"has a polygon with an odd number of coordinates, {len(polygon)}"
        if len(polygon) < 6:
            return f"has a polygon of {len(polygon) // 2} points; it takes 3 or more"
    return None


def _rle_problem(rle: dict[str, Any]) -> str | None:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int for n in size):
        return "has a run-length code without a size of height and width"
    if isinstance(counts, list):
        if not all(type(n) is int and n >= 0 for n in counts):
            return "has a run-length code with a run that is no whole number"
        if sum(counts) != size[0] * size[1]:
            return f"has a run-length code of {sum(counts)} pixels, not {size[0]} x {size[1]}"
    elif not isinstance(counts, str):
        return "has a run-length code without counts"
    return None


def draw(segmentation: Any, class_id: int, height: int, width: int, where: str) -> Shape | None:
    """The object that a well-formed segmentation draws; None where it covers no pixel.

    Raises:
        DataError: it does not fit the image; the line begins with `where`.
    """
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != (height, width):
            size = " x ".join(str(n) for n in segmentation["size"])
            raise DataError(f"{where} is for {size}, its image {height} x {width}")
        counts = segmentation["counts"]
        runs = _unpacked(counts, where) if isinstance(counts, str) else counts
        return _draw_runs(runs, class_id, height, width, where)
    return _draw_polygons(segmentation, class_id, height, width, where)


def _draw_polygons(
    polygons: list[list[float]], class_id: int, height: int, width: int, where: str
) -> Shape | None:
    """By pycocotools, within the box of the polygons: as in the whole image, but in its memory."""
    points = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons]).astype(np.float64)
    reach = np.array([width, height]) * _OVERHANG
    if (points < -reach).any() or (points > np.array([width, height]) + reach).any():
        raise DataError(f"{where} has a polygon far outside of its image, {height} x {width}")
    x0, y0 = np.clip(np.floor(points.min(0)).astype(int), 0, (width - 1, height - 1))
    x1, y1 = np.clip(np.ceil(points.max(0)).astype(int) + 1, (x0 + 1, y0 + 1), (width, height))
    moved = [(np.reshape(p, (-1, 2)) - (x0, y0)).ravel().tolist() for p in polygons]
    codes = coco_mask.frPyObjects(moved, int(y1 - y0), int(x1 - x0))
    mask: NDArray[np.uint8] = coco_mask.decode(coco_mask.merge(codes))
    return tight_shape(class_id, mask > 0, int(y0), int(x0))


def _draw_runs(runs: list[int], class_id: int, height: int, width: int, where: str) -> Shape | None:
    """Alternating runs of 0 and 1 down the columns; only the columns with a 1 are drawn."""
    try:
        lengths = np.array(runs, np.int64)
    except OverflowError:
        lengths = np.array([-1])
    if (lengths < 0).any() or (lengths > height * width).any() or lengths.sum() != height * width:
        raise DataError(f"{where} has a run-length code that does not fill {height} x {width}")
    ends = np.cumsum(lengths)
    filled = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not len(filled):
        return None
    x0, x1 = int(ends[filled[0] - 1]) // height, -(-int(ends[filled[-1]]) // height)
    edges = np.concatenate([[0], ends]).clip(x0 * height, x1 * height)
    values = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(values, np.diff(edges)).reshape(x1 - x0, height)
    return tight_shape(class_id, columns.T, 0, x0)


def _unpacked(counts: str, where: str) -> list[int]:
    """Runs from COCO's compressed text.

    Each run is a signed number in base 32, low digits first, as characters from '0' on of which
    the sixth bit says that more digits follow. From the fourth run on, it is the difference to the
    run before the last (rleFrString in COCO's maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 60:
            raise DataError(f"{where} has a run-length code with a character that is none of it")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise DataError(f"{where} has a run-length code that ends within a run")
    return runs
