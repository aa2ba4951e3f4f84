"""Connected pixels → labels."""

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
    areas = np.bincount(labels.ravel())
    keep = areas >= min_area
    keep[0] = False
    numbers = np.zeros(len(areas), np.int32)
    numbers[keep] = np.arange(1, keep.sum() + 1)
    return numbers[labels]
