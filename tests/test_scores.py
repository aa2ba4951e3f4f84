"""Scores of objects say how often they are right, once that was learned."""

import numpy as np
import pytest
from scipy.special import expit

from pipeline.config import MethodSettings
from pipeline.metrics import reliability
from pipeline.scores import calibrated, log_odds, object_scores, relative_sizes
from pipeline.training.calibration import fit_scores

ALIKE = np.zeros(3)
"""Sizes of objects that are all typical."""


def settings_of(numbers: tuple[float, float, float]) -> MethodSettings:
    slope, shift, size = numbers
    return MethodSettings(score_slope=slope, score_shift=shift, score_size=size)


def test_by_default_a_score_is_the_mean_of_its_pixels() -> None:
    certainty, areas = np.array([255 * 9, 0, 1000]), np.array([9, 5, 7])
    scores = object_scores(certainty, areas, 20.0, MethodSettings())
    np.testing.assert_array_equal(scores, np.float32([1, 0, 1000 / 255 / 7]))


def test_learned_scores_say_how_often_they_are_right() -> None:
    rng = np.random.default_rng(0)
    mean, sizes = rng.uniform(0.5, 1, 20_000), rng.normal(0, 1, 20_000)
    right = rng.random(len(mean)) < expit(1.6 * log_odds(mean) - 2 + 0.7 * sizes)
    before = reliability(mean, right)
    numbers = fit_scores(mean[::2], sizes[::2], right[::2])
    scores = calibrated(mean[1::2], sizes[1::2], settings_of(numbers))
    after = reliability(scores, right[1::2])
    assert numbers == pytest.approx((1.6, -2, 0.7), abs=0.15)
    assert before.error is not None
    assert after.error is not None
    assert before.error > 0.1
    assert after.error < 0.02


def test_of_objects_as_sure_the_one_of_usual_size_is_righter_than_a_speck() -> None:
    areas = np.array([100, 25])
    sizes = relative_sizes(areas, 100.0)
    np.testing.assert_allclose(sizes, [0, -np.log(4)])
    scores = object_scores(areas * 204, areas, 100.0, settings_of((1.0, 0.0, 0.5)))
    assert scores[0] == pytest.approx(0.8)
    assert scores[1] == pytest.approx(expit(log_odds(np.array([0.8]))[0] - np.log(2)))
    unknown = object_scores(areas * 204, areas, 0.0, settings_of((1.0, 0.0, 0.5)))
    np.testing.assert_allclose(unknown, 0.8, rtol=1e-6)


@pytest.mark.parametrize("right", [[True] * 3, [False] * 3, [False, False, True]])
def test_a_few_objects_change_little_and_never_the_order(right: list[bool]) -> None:
    mean, hits = np.array([0.97, 0.8, 0.6]), np.array(right)
    few = calibrated(mean, ALIKE, settings_of(fit_scores(mean, ALIKE, hits)))
    of_many = fit_scores(np.tile(mean, 100), np.tile(ALIKE, 100), np.tile(hits, 100))
    many = calibrated(mean, ALIKE, settings_of(of_many))
    assert np.all(np.diff(few) < 0)
    assert np.all(np.diff(many) < 0)
    assert np.all(np.abs(few - mean) < np.abs(many - mean))


def test_without_objects_nothing_is_learned() -> None:
    assert fit_scores(np.zeros(0), np.zeros(0), np.zeros(0, bool)) == (1, 0, 0)


def test_scores_of_the_surest_and_the_least_sure_are_finite() -> None:
    scores = calibrated(np.array([0.0, 1.0]), np.zeros(2), settings_of((3.0, 0.5, 0.0)))
    assert 0 < scores[0] < scores[1] <= 1
