"""Metrics, held against definitions worked out by hand and by brute force."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from pipeline.metrics import AP_THRESHOLDS, confusion, count_error, dice_iou, match_objects
from pipeline.records import VOID
from pipeline.synthetic import make_scene


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
