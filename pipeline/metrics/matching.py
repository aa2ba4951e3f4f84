"""Objects matched one to one with true ones: average precision, panoptic quality.

Legend: H height, W width, N true objects, M predicted objects, P pixels, T thresholds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from pipeline.records import VOID, InstanceMap, SemanticMap

AP_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Matches:
    """Objects of one image (or a sum over images) matched one to one, at T thresholds of IoU."""

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    iou_sum: NDArray[np.float64]
    """(T,) sum of the IoU of matched pairs."""

    def __add__(self, other: "Matches") -> "Matches":
        return Matches(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.iou_sum + other.iou_sum,
        )

    @property
    def ap(self) -> NDArray[np.float64]:
        """(T,) TP / (TP + FP + FN), as the 2018 Data Science Bowl and stardist's `matching` do.

        1 where there is neither a true nor a predicted object.
        """
        total = self.tp + self.fp + self.fn
        return np.where(total > 0, self.tp / np.maximum(total, 1), 1.0)

    @property
    def pq(self) -> NDArray[np.float64]:
        """(T,) panoptic quality (Kirillov et al. 2019, arXiv:1801.00868); the paper's is at 0.5."""
        total = self.tp + (self.fp + self.fn) / 2
        return np.where(total > 0, self.iou_sum / np.maximum(total, 0.5), 1.0)


def iou_matrix(truth: InstanceMap, predicted: InstanceMap) -> csr_array:
    """Sparse (N + 1, M + 1) IoU of every pair of ids that share pixels; row and column 0 empty."""
    shape = (int(truth.max(initial=0)) + 1, int(predicted.max(initial=0)) + 1)
    keys = truth.ravel().astype(np.int64) * shape[1] + predicted.ravel()
    pairs, overlap = np.unique(keys, return_counts=True)
    i, j = np.divmod(pairs, shape[1])
    area_i = np.bincount(i, overlap, shape[0])
    area_j = np.bincount(j, overlap, shape[1])
    both = (i > 0) & (j > 0)
    i, j, overlap = i[both], j[both], overlap[both]
    iou = overlap / (area_i[i] + area_j[j] - overlap)
    return coo_array((iou, (i, j)), shape).tocsr()


def iou_of(truth: csr_array, predicted: csr_array) -> csr_array:
    """The same of objects that may overlap, given as (N + 1, P) and (M + 1, P) ones at pixels."""
    overlap = (truth @ predicted.T).tocoo()
    area_i, area_j = truth.sum(1), predicted.sum(1)
    i, j = overlap.row, overlap.col
    iou = overlap.data / (area_i[i] + area_j[j] - overlap.data)
    return coo_array((iou, (i, j)), overlap.shape).tocsr()


def matched_pairs(
    iou: csr_array, threshold: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Rows, columns and IoU of as many one-to-one pairs as can reach a threshold.

    Where objects overlap there may be several ways to pair as many: the one of the largest IoU.
    """
    pairs = iou.tocoo()
    reach = pairs.data >= threshold
    row, column, value = pairs.row[reach], pairs.col[reach], pairs.data[reach]
    chosen = (np.bincount(row)[row] == 1) & (np.bincount(column)[column] == 1)
    for rivals in _rivals(row, column, np.flatnonzero(~chosen)):
        rows, i = np.unique(row[rivals], return_inverse=True)
        columns, j = np.unique(column[rivals], return_inverse=True)
        gain = np.zeros((len(rows), len(columns)))
        # One pair more is worth more than all IoU.
        gain[i, j] = 1 + value[rivals] / (2 * len(rivals))
        partner = np.full(len(rows), -1)
        matched = linear_sum_assignment(gain, maximize=True)
        partner[matched[0]] = matched[1]
        chosen[rivals[partner[i] == j]] = True
    return row[chosen].astype(np.intp), column[chosen].astype(np.intp), value[chosen]


def _rivals(
    row: NDArray[np.integer], column: NDArray[np.integer], pairs: NDArray[np.intp]
) -> list[NDArray[np.intp]]:
    """Pairs that have objects in common, directly or through others: a group each."""
    if not len(pairs):
        return []
    n = int(row.max()) + 1
    ends = (row[pairs], n + column[pairs])
    shape = (n + int(column.max()) + 1,) * 2
    group = connected_components(coo_array((np.ones(len(pairs)), ends), shape), directed=False)[1]
    of_pair = group[row[pairs]]
    order = np.argsort(of_pair, kind="stable")
    return np.split(pairs[order], np.flatnonzero(np.diff(of_pair[order])) + 1)


def match_ious(
    iou: csr_array,
    n_true: int,
    n_predicted: int,
    thresholds: Sequence[float] = AP_THRESHOLDS,
) -> Matches:
    """Match objects by the IoU of their pairs; empty rows and columns stand for no object."""
    reached = [matched_pairs(iou, threshold)[2] for threshold in thresholds]
    hits = np.array([len(one) for one in reached], np.int64)
    sums = np.array([float(one.sum()) for one in reached])
    return Matches(hits, n_predicted - hits, n_true - hits, sums)


def outside_void(predicted: InstanceMap, truth: SemanticMap) -> InstanceMap:
    """Predicted objects without their pixels where nobody labelled, and without those that are
    mostly there: what they are is not known, so they are neither right nor wrong (Kirillov et al.
    2019, section 4.1).
    """
    void = truth == VOID
    if not void.any():
        return predicted
    n = int(predicted.max(initial=0)) + 1
    area = np.bincount(predicted.ravel(), minlength=n)
    inside = np.bincount(predicted[void], minlength=n)
    dropped = 2 * inside > area
    return np.where(void | dropped[predicted], 0, predicted)


def sum_matches(matches: Iterable[Matches], thresholds: int = len(AP_THRESHOLDS)) -> Matches:
    """Pool the matches of many images."""
    zero = np.zeros(thresholds, np.int64)
    total = Matches(zero, zero, zero, zero.astype(float))
    for one in matches:
        total = total + one
    return total
