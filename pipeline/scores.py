"""How sure a model is of its objects, as a share of times that it is right.

The mean probability of an object's pixels tells good objects from doubtful ones, but not how many
of them are right: where a network says .8, half may be. The log-odds of the mean, stretched and
shifted, do (Platt 1999, Probabilistic outputs for support vector machines). What is much smaller
than the other objects of its image is less often right than it looks, so its size is added. The
three numbers are learned on validation images, see `training/calibration.py`.

Legend: N objects.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from pipeline.config import MethodSettings

_SUREST = 1 - 1 / 512  # half a step of a probability in 8 bits from certain


def object_scores(
    certainty: NDArray[np.int64],
    areas: NDArray[np.int64],
    typical_area: float,
    settings: MethodSettings,
) -> NDArray[np.float32]:
    """(N,) how likely each object is right: has a true partner of its class at IoU 0.5.

    Args:
        certainty: (N,) sum over an object's pixels of 255 times the probability of each.
        areas: (N,) pixels.
        typical_area: of the image's objects, in pixels; 0 where it is not known.
    """
    mean = certainty / 255 / np.maximum(areas, 1)
    return calibrated(mean, relative_sizes(areas, typical_area), settings)


def relative_sizes(areas: NDArray[np.int64], typical_area: float) -> NDArray[np.float64]:
    """(N,) natural logarithm of each area over the typical one; 0 where that is not known."""
    if typical_area <= 0:
        return np.zeros(len(areas))
    sizes: NDArray[np.float64] = np.log(np.maximum(areas, 1) / typical_area)
    return sizes


def sure_enough(scores: NDArray[np.float32], settings: MethodSettings) -> NDArray[np.bool_]:
    """(N,) which objects are kept; the others are left out, as if nobody had found them."""
    kept: NDArray[np.bool_] = scores >= np.float32(settings.min_score)
    return kept


def calibrated(
    mean: NDArray[np.float64], sizes: NDArray[np.float64], settings: MethodSettings
) -> NDArray[np.float32]:
    """(N,) mean probabilities and relative sizes → scores."""
    slope, shift, size = settings.score_slope, settings.score_shift, settings.score_size
    if (slope, shift, size) != (1.0, 0.0, 0.0):
        mean = expit(slope * log_odds(mean) + shift + size * sizes)
    return mean.astype(np.float32)


def log_odds(mean: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) of mean probabilities; finite, as 8 bits say 0 and 1 of what is merely close to them."""
    odds: NDArray[np.float64] = logit(mean.astype(np.float64).clip(1 - _SUREST, _SUREST))
    return odds
