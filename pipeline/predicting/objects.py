"""Per-object measurements, all objects at once, from sums that add up over parts of an object.

Sums of whole numbers are exact, so an object that was measured in parts has the measures that it
has as a whole. The ellipse is that of MATLAB's and CellProfiler's measures, of the second central
moments of pixels that are unit squares; scikit-image's `regionprops` takes them for points, so that
its axes are shorter, and a row of pixels has no width.

Legend: H height, W width, C channels, N objects, P object pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from pipeline.overlaps import pixels_of
from pipeline.records import InstanceMap, ObjectMask, ObjectMeasures, Pixels

_PIXEL = 1 / 12  # second moment of a unit square about its centre


@dataclass(frozen=True)
class ObjectSums:
    """Sums over the pixels of N objects, or of parts of them."""

    boxes: NDArray[np.int64]
    """(N, 4) y0 x0 y1 x1."""
    areas: NDArray[np.int64]
    """(N,) pixels."""
    moments: NDArray[np.int64]
    """(N, 5) of y, x, y², x² and xy, from the corner of the object's box.

    Of joined parts as Python's own numbers (dtype object) where they do not fit in 64 bits.
    """
    values: NDArray[np.float64]
    """(N, C) of each channel, in the file's own units."""
    deviations: NDArray[np.float64]
    """(N, C) of the squares of how far each pixel's value is from the mean of them."""

    @property
    def means(self) -> NDArray[np.float64]:
        """(N, C) of each channel; 0 of an object without pixels."""
        return self.values / np.maximum(self.areas, 1)[:, None]

    def take(self, index: NDArray[np.int64]) -> "ObjectSums":
        """Those of some of the objects."""
        return ObjectSums(*(getattr(self, one.name)[index] for one in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence["ObjectSums"]) -> "ObjectSums":
        """Those of several, one after another."""
        return cls(*(np.concatenate([getattr(p, one.name) for p in parts]) for one in fields(cls)))


def measure_objects(instances: InstanceMap, pixels: Pixels, n: int) -> ObjectMeasures:
    """Measure objects 1..n of an (H, W) map over the (H, W, C) image that it was predicted from."""
    sums = sum_objects(instances, pixels, n)
    return measures_of(sums, encode_masks(instances, sums.boxes), *instances.shape)


def sum_objects(
    instances: InstanceMap, pixels: Pixels, n: int, corner: tuple[int, int] = (0, 0)
) -> ObjectSums:
    """The sums of objects 1..n of an (H, W) map over the (H, W, C) pixels below it.

    Args:
        corner: where in the image the map begins; only boxes know it.
    """
    boxes = _boxes(instances, n)
    flat = np.flatnonzero(instances)
    owner = instances.ravel()[flat] - 1
    y, x = np.divmod(flat, instances.shape[1])
    return _sum_pixels(owner, y, x, boxes, pixels, corner)


def measure_whole(
    objects: Sequence[ObjectMask],
    pixels: Pixels,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> ObjectMeasures:
    """Measure objects that may overlap in the (H, W, C) pixels below them.

    Args:
        corner: where in the image the pixels begin; only the measures know it.
        size: height and width of the image, where that is more than these pixels.
    """
    boxes = np.array([one.box for one in objects], np.int64).reshape(-1, 4)
    sums = _sum_pixels(*pixels_of(objects), boxes, pixels, corner)
    rles = [_encode(one.mask()) for one in objects]
    return measures_of(sums, rles, *(size or pixels.shape[:2]))


def _sum_pixels(
    owner: NDArray[np.integer],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    boxes: NDArray[np.int64],
    pixels: Pixels,
    corner: tuple[int, int],
) -> ObjectSums:
    """The sums of N objects over their pixels, each at a row and a column of (H, W, C)."""
    n = len(boxes)
    y, x = rows - boxes[owner, 0], columns - boxes[owner, 1]
    products = [p.astype(np.float64) for p in (y, x, y * y, x * x, y * x)]
    found = pixels[rows, columns].astype(np.float64)
    sums = ObjectSums(
        boxes=boxes + np.tile(np.array(corner), 2),
        areas=np.bincount(owner, minlength=n).astype(np.int64),
        # As doubles they are exact up to 2^53, which a region's sums never reach.
        moments=_sums(owner, products, n).astype(np.int64),
        values=_sums(owner, list(found.T), n),
        deviations=np.zeros((n, pixels.shape[2])),
    )
    # From the mean, not from 0: far from it, squares have no digits left for what differs.
    found -= sums.means[owner]
    return replace(sums, deviations=_sums(owner, list((found * found).T), n))


def measures_of(sums: ObjectSums, rles: list[str], height: int, width: int) -> ObjectMeasures:
    """What the sums of whole objects say, in an image of this size.

    Args:
        rles: COCO compressed RLE of each object's mask over its box.
    """
    areas = np.maximum(sums.areas, 1)[:, None]
    mean = sums.moments.astype(np.float64) / areas
    major, minor, eccentricity = _ellipses(mean)
    variances = sums.deviations / areas
    boxes = sums.boxes
    touches = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == (height, width)).any(1)
    return ObjectMeasures(
        boxes=boxes.astype(np.int32),
        centroids=boxes[:, :2] + mean[:, :2],
        areas=sums.areas,
        major_axes=major,
        minor_axes=minor,
        eccentricities=eccentricity,
        intensity_means=sums.means.astype(np.float32),
        intensity_stds=np.sqrt(variances).astype(np.float32),
        truncated=touches,
        rles=rles,
    )


def encode_masks(
    instances: InstanceMap,
    boxes: NDArray[np.int64],
    corner: tuple[int, int] = (0, 0),
    chosen: NDArray[np.int64] | None = None,
) -> list[str]:
    """COCO compressed RLE of objects 1..N of an (H, W) map, each over its box.

    `pycocotools.mask.decode` takes one with the box's size.

    Args:
        boxes: (N, 4), in the image.
        corner: where in the image the map begins.
        chosen: only these objects; by default all.
    """
    y, x = corner
    rles = []
    for label in range(1, len(boxes) + 1) if chosen is None else chosen:
        y0, x0, y1, x1 = boxes[label - 1]
        window = instances[y0 - y : y1 - y, x0 - x : x1 - x]
        rles.append(_encode(window == label))
    return rles


def _encode(mask: NDArray[np.bool_]) -> str:
    counts: bytes = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode("ascii")


def _ellipses(
    mean: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(N, 5) means of y, x, y², x², xy → major axis, minor axis and eccentricity, (N,) each."""
    y, x, squares_y, squares_x, product = mean.T
    yy, xx, xy = squares_y - y * y + _PIXEL, squares_x - x * x + _PIXEL, product - y * x
    middle, half = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = middle + half, np.maximum(middle - half, 0)
    eccentricity = np.sqrt(1 - small / np.maximum(large, _PIXEL))
    return (
        (4 * np.sqrt(large)).astype(np.float32),
        (4 * np.sqrt(small)).astype(np.float32),
        eccentricity.astype(np.float32),
    )


def _boxes(instances: InstanceMap, n: int) -> NDArray[np.int64]:
    boxes = np.zeros((n, 4), np.int64)
    for i, window in enumerate(ndimage.find_objects(instances, max_label=n)):
        if window is not None:
            rows, columns = window
            boxes[i] = (rows.start, columns.start, rows.stop, columns.stop)
    return boxes


def _sums(
    owner: NDArray[np.integer], columns: list[NDArray[np.float64]], n: int
) -> NDArray[np.float64]:
    """(P,) values, several columns of them → (N, columns) their sums over each object."""
    total = np.zeros((n, len(columns)))
    for i, values in enumerate(columns):
        total[:, i] = np.bincount(owner, values, n)
    return total
