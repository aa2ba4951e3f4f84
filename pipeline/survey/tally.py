"""Counts that add up: what many images say, in a size that does not grow with the images.

Sides and counts are small whole numbers, tallied exactly. Object diameters go into bins of equal
ratio, an eighth of an octave each, so a quantile of millions is right to a few percent.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

V = TypeVar("V", int, str)

BINS_PER_OCTAVE = 8
BINS = 13 * BINS_PER_OCTAVE  # diameters from 1 to 8192 pixels; the last bin takes larger ones


@dataclass(frozen=True)
class Tally(Generic[V]):
    """How often each value occurs."""

    counts: tuple[tuple[V, int], ...] = ()
    """(value, times), in the order of values."""

    @classmethod
    def of(cls, values: Iterable[V]) -> "Tally[V]":
        """Of plain values."""
        return cls(tuple(sorted(Counter(values).items())))

    def __add__(self, other: "Tally[V]") -> "Tally[V]":
        total = Counter(dict(self.counts))
        total.update(dict(other.counts))
        return Tally(tuple(sorted(total.items())))

    @property
    def values(self) -> list[V]:
        """The values that occur, in order."""
        return [value for value, _ in self.counts]

    def quantile(self, share: float) -> V:
        """The smallest value that at least this share of all does not exceed.

        Raises:
            ValueError: there are no values.
        """
        wanted = share * sum(times for _, times in self.counts)
        seen = 0
        for value, times in self.counts:
            seen += times
            if seen >= wanted:
                return value
        raise ValueError("a quantile of nothing")


def diameter_bins(diameters: NDArray[np.float64]) -> tuple[int, ...]:
    """(BINS,) how many diameters, in pixels, fall into each bin."""
    places = np.floor(np.log2(np.maximum(diameters, 1)) * BINS_PER_OCTAVE).astype(int)
    return tuple(np.bincount(places.clip(0, BINS - 1), minlength=BINS).tolist())


def scaled_bins(bins: Sequence[int], factor: float) -> tuple[int, ...]:
    """(BINS,) the same diameters times a factor, to the eighth of an octave."""
    shift, scaled = round(math.log2(factor) * BINS_PER_OCTAVE), [0] * BINS
    for place, times in enumerate(bins):
        scaled[min(max(place + shift, 0), BINS - 1)] += times
    return tuple(scaled)


def bin_edge(position: float) -> float:
    """The diameter at a position on the axis of bins."""
    return float(2 ** (position / BINS_PER_OCTAVE))


def area_median(bins: Sequence[int]) -> float:
    """The diameter that half of all objects' pixels lie in objects of at most; NaN without any.

    One large object among a thousand spots is no quantile of theirs, and most of what they cover.
    """
    pixels = [times * bin_edge(place + 0.5) ** 2 for place, times in enumerate(bins)]
    return diameter_quantile(pixels, 0.5)


def diameter_quantile(bins: Sequence[float], share: float) -> float:
    """Of binned diameters, evenly spread inside each bin; NaN where there are none."""
    total = sum(bins)
    if total == 0:
        return math.nan
    wanted, seen = share * total, 0.0
    for place, times in enumerate(bins):
        if times and seen + times >= wanted:
            return bin_edge(place + (wanted - seen) / times)
        seen += times
    return bin_edge(len(bins))
