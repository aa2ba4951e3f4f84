"""How good predictions are: pure functions over arrays.

matching.py     objects, one to one with true ones: average precision, panoptic quality
pixels.py       IoU and Dice of a class
counts.py       errors of counts
reliability.py  confidences against how often they are right
judging.py      the objects of one image, each right or wrong or neither
true_counts.py  how many objects there truly are, given how many were counted
figures.py      all of it, for a group of images
"""

from pipeline.metrics.counts import CountError, count_error
from pipeline.metrics.matching import (
    AP_THRESHOLDS,
    Matches,
    iou_matrix,
    iou_of,
    match_ious,
    matched_pairs,
    outside_void,
    sum_matches,
)
from pipeline.metrics.pixels import confusion, dice_iou
from pipeline.metrics.reliability import RELIABILITY_BINS, Reliability, reliability

__all__ = [
    "AP_THRESHOLDS",
    "RELIABILITY_BINS",
    "CountError",
    "Matches",
    "Reliability",
    "confusion",
    "count_error",
    "dice_iou",
    "iou_matrix",
    "iou_of",
    "match_ious",
    "matched_pairs",
    "outside_void",
    "reliability",
    "sum_matches",
]
