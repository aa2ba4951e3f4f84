"""Connected pixels → labels, and labels that are numbered anew, dropped or grown."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.records import InstanceMap


def connected_components(mask: NDArray[np.bool_], connectivity: int) -> InstanceMap:
    """(H, W) → component numbers from 1, in the order of their first pixel."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[1]
    return labels.astype(np.int32, copy=False)


def renumbered(labels: InstanceMap) -> tuple[InstanceMap, int]:
    """Labels without gaps, from 1 in their order, and how many there are."""
    present = np.zeros(int(labels.max(initial=0)) + 1, bool)
    present[labels.ravel()] = True
    present[0] = False
    numbers = np.zeros(len(present), np.int32)
    numbers[present] = np.arange(1, present.sum() + 1)
    return numbers[labels], int(present.sum())


def drop_small(labels: InstanceMap, min_area: int) -> InstanceMap:
    """Remove labels of fewer pixels and number the rest from 1 without gaps."""
    areas = np.bincount(labels.ravel(), minlength=1)
    return keep_labels(labels, areas[1:] >= min_area)


def keep_labels(labels: InstanceMap, keep: NDArray[np.bool_]) -> InstanceMap:
    """Remove those of the labels 1 to N that are not to be kept, (N,), and number the rest anew."""
    numbers = np.zeros(len(keep) + 1, np.int32)
    numbers[1:][keep] = np.arange(1, keep.sum() + 1)
    return numbers[labels]


def grow(labels: InstanceMap, free: NDArray[np.bool_], steps: int) -> None:
    """Let labels spread over the free pixels, in place, a pixel a step, all at once."""
    width = labels.shape[1] + 2
    padded = np.pad(labels, 1)
    flat = padded.ravel()
    todo = np.flatnonzero(np.pad(free, 1))
    ways = (-width, -1, 1, width, -width - 1, -width + 1, width - 1, width + 1)
    for _ in range(steps):
        found = np.zeros(len(todo), np.int32)
        for way in ways:
            empty = found == 0
            found[empty] = flat[todo[empty] + way]
        if not found.any():
            break
        flat[todo] = found
        todo = todo[found == 0]
    labels[:] = padded[1:-1, 1:-1]
