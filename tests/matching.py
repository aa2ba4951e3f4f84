"""Two maps of objects, held against each other without any labels."""

import numpy as np

from pipeline.metrics import Matches, iou_matrix, match_ious
from pipeline.records import InstanceMap


def match_objects(truth: InstanceMap, predicted: InstanceMap) -> Matches:
    """The objects of two (H, W) maps, matched whatever their class."""
    n_true, n_predicted = (int((np.bincount(a.ravel())[1:] > 0).sum()) for a in (truth, predicted))
    return match_ious(iou_matrix(truth, predicted), n_true, n_predicted)
