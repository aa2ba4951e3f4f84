"""Pixels of each class that are right."""

import numpy as np
from numpy.typing import NDArray

from pipeline.records import VOID, SemanticMap


def confusion(truth: SemanticMap, predicted: SemanticMap) -> NDArray[np.int64]:
    """(256, 256) pixels of each true (row) and predicted (column) class, without void ones."""
    labelled = truth != VOID
    keys = truth[labelled].astype(np.int64) * 256 + predicted[labelled]
    return np.bincount(keys, minlength=256 * 256).reshape(256, 256)


def dice_iou(matrix: NDArray[np.int64], class_id: int) -> tuple[float, float]:
    """Dice and IoU of one class from a confusion matrix; NaN where it never occurs."""
    hit = int(matrix[class_id, class_id])
    union = int(matrix[class_id].sum() + matrix[:, class_id].sum()) - hit
    if union == 0:
        return float("nan"), float("nan")
    return 2 * hit / (union + hit), hit / union
