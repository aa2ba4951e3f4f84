"""How far counts are from true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CountError:
    """How far predicted counts are from true ones, relative to the number of true objects."""

    absolute: float
    """Sum of |predicted - true| over images, divided by the number of true objects."""
    bias: float
    """Sum of (predicted - true), divided likewise: above 0 for too many."""


def count_error(true: Sequence[int], predicted: Sequence[int]) -> CountError:
    """Errors of the counts of the same images; NaN where there is no true object."""
    difference = np.asarray(predicted, np.int64) - np.asarray(true, np.int64)
    total = int(np.sum(true))
    if total == 0:
        return CountError(float("nan"), float("nan"))
    return CountError(float(np.abs(difference).sum() / total), float(difference.sum() / total))
