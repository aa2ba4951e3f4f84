"""How many objects there truly are, given how many were counted, and how sure that is.

A model misses some objects and finds some that are none. On annotated images the true number is
close to a ratio times the counted one, so that is what is expected elsewhere: the ratio estimator
of survey sampling (Cochran 1977, Sampling Techniques, chapter 6). Two things make it wrong. The
ratio was learned on a few images: an error that all images share, and that stays however many are
counted. And every image differs: errors that even out, since their variances add up. Their
variance grows with the count, as when objects are missed one by one, and with its square, as when
an image as a whole is harder.

It holds for images like the annotated ones.

Legend: M annotated images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pipeline.metrics.judging import JudgedObjects
from pipeline.records import CountCalibration

CONFIDENCE = 0.95
"""How often the truth lies within the error of what is expected."""

_PRIOR = 1.0  # an error of one object that is taken for granted: few images may happen to be right
_DIGITS = 6


@dataclass(frozen=True)
class Counted:
    """Images that were counted with one model."""

    images: int
    objects: int
    squares: int
    """Sum over the images of the square of each one's count."""


@dataclass(frozen=True)
class Expected:
    """How many objects there truly are."""

    objects: float
    error: float
    """The truth lies as close as this, in `CONFIDENCE` of cases."""


def calibrate_counts(
    images: Sequence[JudgedObjects], class_ids: Iterable[int]
) -> dict[int, CountCalibration]:
    """Of each class, as far as images that were held against the truth tell."""
    found = {}
    for class_id in class_ids:
        pairs = np.array([one.counts[class_id] for one in images], np.int64).reshape(-1, 2)
        calibration = fit_counts(pairs[:, 0], pairs[:, 1])
        if calibration is not None:
            found[class_id] = calibration
    return found


def fit_counts(true: NDArray[np.int64], counted: NDArray[np.int64]) -> CountCalibration | None:
    """From (M,) counts of the same images; None unless two of them at least have objects counted.

    An image's residual is that of the ratio which the others give (leave-one-out). Some dozens of
    images don't tell whether variances grow with the count or with its square: either is taken to
    explain half of what there is.
    """
    if np.count_nonzero(counted) < 2:
        return None
    total = int(counted.sum())
    ratio = true.sum() / total
    residuals = (true - ratio * counted) / (1 - counted / total)
    whole = float(residuals @ residuals) + _PRIOR
    return CountCalibration(
        images=len(counted),
        ratio=round(float(ratio), _DIGITS),
        ratio_error=round(whole**0.5 / total, _DIGITS),
        spread=round(whole / 2 / float((counted + 1).sum()), _DIGITS),
        spread_squared=round(whole / 2 / float(counted @ counted), _DIGITS),
    )


def expect(parts: Iterable[tuple[Counted, CountCalibration]]) -> Expected:
    """What is expected of images that were counted, those of each model apart."""
    objects = variance = 0.0
    for counted, known in parts:
        objects += known.ratio * counted.objects
        shared = (known.ratio_error * counted.objects) ** 2
        own = known.spread * (counted.objects + counted.images)
        own += known.spread_squared * counted.squares
        # Of few images the variance itself is not well known either (Student's t).
        variance += (shared + own) * float(stdtrit(known.images - 1, (1 + CONFIDENCE) / 2)) ** 2
    return Expected(objects, variance**0.5)
