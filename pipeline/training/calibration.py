"""Scores that say how often they are right: three numbers, learned on the validation images.

Legend: N predicted objects.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from pipeline.scores import log_odds

_DIGITS = 4


def fit_scores(
    mean: NDArray[np.floating], sizes: NDArray[np.floating], right: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Slope and shift of log-odds and weight of sizes that make objects' hits and misses likeliest.

    They are drawn to "as it is", 1, 0 and 0, by a normal prior of deviation 1 on each and on the
    slope's logarithm: a few objects change little, and misses of the sure do not turn the order.

    Args:
        mean: (N,) probability of each object's pixels.
        sizes: (N,) as `scores.relative_sizes` has them.
        right: (N,) whether it has a true partner.
    """
    odds = log_odds(mean)

    def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        slope, shift, size = np.exp(values[0]), values[1], values[2]
        said = slope * odds + shift + size * sizes
        likelihood = log_expit(np.where(right, said, -said)).sum()
        slack = expit(said) - right
        gradient = np.array([(slack * odds).sum() * slope, slack.sum(), (slack * sizes).sum()])
        return float(values @ values / 2 - likelihood), gradient + values

    slope, shift, size = minimize(loss, np.zeros(3), jac=True, method="L-BFGS-B").x
    found = (float(np.exp(slope)), float(shift), float(size))
    return round(found[0], _DIGITS), round(found[1], _DIGITS), round(found[2], _DIGITS)
