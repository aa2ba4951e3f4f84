"""Metrics, held against definitions worked out by hand and by brute force."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from pipeline.metrics import (
    AP_THRESHOLDS,
    Reliability,
    confusion,
    count_error,
    dice_iou,
    match_ious,
    matched_pairs,
    reliability,
)
from pipeline.records import VOID
from pipeline.synthetic import make_scene
from tests.matching import match_objects


def strips(*widths: int) -> np.ndarray:
    """(4, sum) objects side by side."""
    return np.repeat(np.arange(1, len(widths) + 1, dtype=np.int32), widths)[None].repeat(4, 0)


def test_worked_example() -> None:
    truth, predicted = strips(10, 10, 10), strips(9, 15, 6)
    # IoU: 9/10; 10 of 15 → 10/16 with one column lost to the first; 6/10
    matches = match_objects(truth, predicted)
    assert matches.tp.tolist() == [3, 3, 1, 1, 1]
    assert matches.fp.tolist() == matches.fn.tolist() == [0, 0, 2, 2, 2]
    assert matches.ap.tolist() == pytest.approx([1, 1, 0.2, 0.2, 0.2])
    assert matches.pq[0] == pytest.approx((0.9 + 10 / 15 + 0.6) / 3)


def test_empty_images() -> None:
    none, some = np.zeros((4, 10), np.int32), strips(10)
    assert match_objects(none, none).ap.tolist() == [1] * 5
    assert match_objects(some, none).ap.tolist() == [0] * 5
    assert match_objects(none, some).fp.tolist() == [1] * 5


@pytest.mark.parametrize("seed", range(4))
def test_equals_hungarian_assignment(seed: int) -> None:
    truth = make_scene(120, 120, 60, seed).label.instances
    predicted = np.roll(truth, (seed + 1, 2), (0, 1))
    n, m = int(truth.max()), int(predicted.max())
    iou = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            a, b = truth == i + 1, predicted == j + 1
            iou[i, j] = (a & b).sum() / (a | b).sum()
    found = match_objects(truth, predicted)
    for k, threshold in enumerate(AP_THRESHOLDS):
        good = iou >= threshold
        rows, columns = linear_sum_assignment(-(good + iou / (2 * max(n, m))))
        assert found.tp[k] == good[rows, columns].sum()


def test_of_objects_that_overlap_the_best_partner_counts() -> None:
    """Both are half a true object at least, and one of them is it."""
    iou = csr_array(np.array([[0, 0, 0], [0, 0.5, 1.0]]))
    assert match_ious(iou, 1, 2).iou_sum.tolist() == [1.0] * 5
    assert matched_pairs(iou, 0.5)[1].tolist() == [2]


@pytest.mark.parametrize("seed", range(8))
def test_as_many_pairs_as_can_be_and_of_these_the_best(seed: int) -> None:
    """As stardist's `matching` takes them, where objects overlap."""
    rng = np.random.default_rng(seed)
    iou = rng.uniform(0, 1, rng.integers(1, 30, 2))
    iou[rng.random(iou.shape) < rng.choice([0, 0.5, 0.9])] = 0
    found = match_ious(csr_array(np.pad(iou, ((1, 0), (1, 0)))), *iou.shape)
    for k, threshold in enumerate(AP_THRESHOLDS):
        good = iou >= threshold
        best = linear_sum_assignment(good + iou * good / (2 * min(iou.shape)), maximize=True)
        assert found.tp[k] == good[best].sum()
        assert found.iou_sum[k] == pytest.approx((iou * good)[best].sum())


def test_ids_need_not_be_consecutive() -> None:
    truth = strips(10, 10) * 7
    assert match_objects(truth, strips(10, 10)).tp.tolist() == [2] * 5


def test_dice_and_iou_leave_void_out() -> None:
    truth = np.array([[1, 1, 0, 0, VOID, VOID]], np.uint8)
    predicted = np.array([[1, 0, 0, 1, 1, 0]], np.uint8)
    matrix = confusion(truth, predicted)
    assert matrix.sum() == 4
    assert dice_iou(matrix, 1) == pytest.approx((0.5, 1 / 3))
    assert all(np.isnan(dice_iou(matrix, 9)))


def test_count_error_is_relative_and_signed() -> None:
    error = count_error([10, 20, 0], [12, 15, 1])
    assert error.absolute == pytest.approx(8 / 30)
    assert error.bias == pytest.approx(-2 / 30)


def test_calibration_of_a_worked_example() -> None:
    stated = np.array([0.95, 0.95, 0.95, 0.95, 0.15, 0.15])
    right = np.array([True, True, False, False, False, False])
    found = reliability(stated, right)
    # Four said .95 and half were right; two said .15 and none was: (4 x .45 + 2 x .15) / 6
    assert found.error == pytest.approx((4 * 0.45 + 2 * 0.15) / 6)
    assert found.gap == pytest.approx(stated.mean() - right.mean())


def test_who_keeps_the_stated_odds_is_calibrated() -> None:
    levels = np.arange(0.05, 1, 0.1)
    stated = np.repeat(levels, 100)
    right = np.concatenate([np.arange(100) < round(100 * level) for level in levels])
    assert reliability(stated, right).error == pytest.approx(0, abs=1e-9)
    sure = reliability(np.ones(1000), right)
    assert sure.error == sure.gap == pytest.approx(0.5)  # half of them are right
    shy = reliability(np.full(100, 0.4), np.ones(100, bool))
    assert (shy.error, shy.gap) == pytest.approx((0.6, -0.6))


def test_calibration_of_parts_adds_up() -> None:
    rng = np.random.default_rng(0)
    stated = rng.uniform(size=1000).astype(np.float32)
    right = rng.uniform(size=1000) < stated**2
    whole = reliability(stated, right)
    parts = sum((reliability(stated[i::3], right[i::3]) for i in range(3)), Reliability())
    assert (parts.counts, parts.correct) == (whole.counts, whole.correct)
    assert parts.confidences == pytest.approx(whole.confidences)
    assert parts.error == pytest.approx(whole.error)
    assert whole.total == 1000
    assert Reliability().error is None
