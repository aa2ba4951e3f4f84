"""Per-object measurements of one image, all objects at once.

Definitions of the ellipse are those of scikit-image's `regionprops`: second central moments of
the pixels, each a unit square. Legend: H height, W width, C channels, N objects, P object pixels.
"""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from pipeline.records import InstanceMap, ObjectMeasures, Pixels


def measure_objects(instances: InstanceMap, pixels: Pixels, n: int) -> ObjectMeasures:
    """Measure objects 1..n of an (H, W) map over the (H, W, C) image that it was predicted from."""
    height, width = instances.shape
    flat = np.flatnonzero(instances)
    owner = instances.ravel()[flat] - 1
    y, x = np.divmod(flat, width)
    areas = np.bincount(owner, minlength=n)
    centroids = np.stack([_mean(owner, y, areas), _mean(owner, x, areas)], axis=1)
    major, minor, eccentricity = _ellipses(owner, y, x, areas, centroids)
    values = pixels.reshape(height * width, -1)[flat].astype(np.float64)
    means = np.stack([_mean(owner, channel, areas) for channel in values.T], axis=1)
    spread = (values - means[owner]) ** 2
    variances = np.stack([_mean(owner, channel, areas) for channel in spread.T], axis=1)
    boxes = _boxes(instances, n)
    touches = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == (height, width)).any(1)
    return ObjectMeasures(
        boxes=boxes,
        centroids=centroids,
        areas=areas,
        major_axes=major,
        minor_axes=minor,
        eccentricities=eccentricity,
        intensity_means=means.astype(np.float32),
        intensity_stds=np.sqrt(variances).astype(np.float32),
        truncated=touches,
        rles=[_rle(instances, box, i + 1) for i, box in enumerate(boxes)],
    )


def _mean(
    owner: NDArray[np.int32], values: NDArray[np.generic], areas: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(P,) values → (N,) their mean over each object."""
    return np.bincount(owner, values, minlength=len(areas)) / np.maximum(areas, 1)


def _ellipses(
    owner: NDArray[np.int32],
    y: NDArray[np.int64],
    x: NDArray[np.int64],
    areas: NDArray[np.int64],
    centroids: NDArray[np.float64],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Major axis, minor axis and eccentricity, (N,) each."""
    dy, dx = y - centroids[owner, 0], x - centroids[owner, 1]
    pixel = 1 / 12  # second moment of a unit square about its centre
    yy = _mean(owner, dy * dy, areas) + pixel
    xx = _mean(owner, dx * dx, areas) + pixel
    xy = _mean(owner, dy * dx, areas)
    middle, half = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    large, small = middle + half, np.maximum(middle - half, 0)
    eccentricity = np.sqrt(1 - small / large)
    return (
        (4 * np.sqrt(large)).astype(np.float32),
        (4 * np.sqrt(small)).astype(np.float32),
        eccentricity.astype(np.float32),
    )


def _boxes(instances: InstanceMap, n: int) -> NDArray[np.int32]:
    boxes = np.zeros((n, 4), np.int32)
    for i, window in enumerate(ndimage.find_objects(instances, max_label=n)):
        if window is not None:
            rows, columns = window
            boxes[i] = (rows.start, columns.start, rows.stop, columns.stop)
    return boxes


def _rle(instances: InstanceMap, box: NDArray[np.int32], object_id: int) -> str:
    """COCO compressed RLE over the box; `pycocotools.mask.decode` takes it with the box's size."""
    y0, x0, y1, x1 = box
    mask = np.asfortranarray(instances[y0:y1, x0:x1] == object_id, dtype=np.uint8)
    counts: bytes = coco_mask.encode(mask)["counts"]
    return counts.decode("ascii")
