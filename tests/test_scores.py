"""Scores of objects say how often they are right, once that was learned."""

import numpy as np
import pytest
from scipy.special import expit

from pipeline.config import MethodSettings
from pipeline.metrics import reliability
from pipeline.scores import calibrated, log_odds, object_scores
from pipeline.training.calibration import fit_scores


def settings_of(numbers: tuple[float, float]) -> MethodSettings:
    return MethodSettings(score_slope=numbers[0], score_shift=numbers[1])


def test_by_default_a_score_is_the_mean_of_its_pixels() -> None:
    certainty, areas = np.array([255 * 9, 0, 1000]), np.array([9, 5, 7])
    scores = object_scores(certainty, areas, MethodSettings())
    np.testing.assert_array_equal(scores, np.float32([1, 0, 1000 / 255 / 7]))


def test_learned_scores_say_how_often_they_are_right() -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.5, 1, 20_000)
    right = rng.random(len(mean)) < expit(1.6 * log_odds(mean) - 2)
    before = reliability(mean, right)
    numbers = fit_scores(mean[::2], right[::2])
    after = reliability(calibrated(mean[1::2], settings_of(numbers)), right[1::2])
    assert numbers == pytest.approx((1.6, -2), abs=0.15)
    assert before.error is not None
    assert after.error is not None
    assert before.error > 0.1
    assert after.error < 0.02


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [False, False, True]])
def test_a_few_objects_change_little_and_never_the_order(right: list[bool]) -> None:
    mean, hits = np.array([0.97, 0.8, 0.6]), np.array(right)
    few = calibrated(mean, settings_of(fit_scores(mean, hits)))
    many = calibrated(mean, settings_of(fit_scores(np.tile(mean, 100), np.tile(hits, 100))))
    assert np.all(np.diff(few) < 0)
    assert np.all(np.diff(many) < 0)
    assert np.all(np.abs(few - mean) < np.abs(many - mean))


def test_without_objects_nothing_is_learned() -> None:
    assert fit_scores(np.zeros(0), np.zeros(0, bool)) == (1, 0)


def test_scores_of_the_surest_and_the_least_sure_are_finite() -> None:
    scores = calibrated(np.array([0.0, 1.0]), settings_of((3.0, 0.5)))
    assert 0 < scores[0] < scores[1] <= 1
