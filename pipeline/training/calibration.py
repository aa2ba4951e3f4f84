"""Scores that say how often they are right: two numbers, learned on the validation images.

Legend: N predicted objects.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from pipeline.scores import log_odds

_DIGITS = 4


def fit_scores(mean: NDArray[np.floating], right: NDArray[np.bool_]) -> tuple[float, float]:
    """The slope and the shift of log-odds that make the objects' hits and misses likeliest.

    Both are drawn to "as it is", 1 and 0, by a normal prior of deviation 1 on the slope's logarithm
    and on the shift: a few objects change little, and misses of the sure do not turn the order.

    Args:
        mean: (N,) probability of each object's pixels.
        right: (N,) whether it has a true partner.
    """
    odds = log_odds(mean)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, shift = np.exp(values[0]), values[1]
        said = slope * odds + shift
        likelihood = log_expit(np.where(right, said, -said)).sum()
        slack = expit(said) - right
        gradient = np.array([(slack * odds).sum() * slope, slack.sum()]) + values
        return float(values @ values / 2 - likelihood), gradient

    slope, shift = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B").x
    return round(float(np.exp(slope)), _DIGITS), round(float(shift), _DIGITS)
