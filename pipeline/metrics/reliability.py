"""How often what is said with a confidence is right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RELIABILITY_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Stated confidences against how often they were right, in R equal bins from 0 to 1.

    Only sums are kept, so the parts of a data set add up to the figures of the whole.
    """

    counts: tuple[int, ...] = (0,) * RELIABILITY_BINS
    confidences: tuple[float, ...] = (0.0,) * RELIABILITY_BINS
    """Sum of the confidences in each bin."""
    correct: tuple[int, ...] = (0,) * RELIABILITY_BINS
    """How many in each bin were right."""

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            tuple(a + b for a, b in zip(self.confidences, other.confidences, strict=True)),
            tuple(a + b for a, b in zip(self.correct, other.correct, strict=True)),
        )

    @property
    def total(self) -> int:
        """How many were judged."""
        return sum(self.counts)

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini et al. 2015, AAAI): mean gap of a bin, by its size.

        0 when things said with confidence c are right in a share c of cases; None where there is
        nothing to judge.
        """
        if self.total == 0:
            return None
        gaps = np.abs(np.subtract(self.confidences, self.correct))
        return float(gaps.sum() / self.total)

    @property
    def gap(self) -> float | None:
        """Mean confidence less the share that was right: above 0 for overconfidence."""
        if self.total == 0:
            return None
        return (sum(self.confidences) - sum(self.correct)) / self.total


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.bool_]) -> Reliability:
    """The bins of any number of confidences from 0 to 1, and whether each was right."""
    place = np.minimum((confidence.ravel() * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    sums = (
        np.bincount(place, weights, RELIABILITY_BINS)
        for weights in (None, confidence.ravel(), correct.ravel())
    )
    counts, confidences, right = sums
    return Reliability(
        tuple(counts.tolist()), tuple(confidences.tolist()), tuple(right.astype(int).tolist())
    )
