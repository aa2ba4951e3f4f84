"""Where crops come from: annotated images by number, held in memory or read again each time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.config import NormalizeSettings
from pipeline.images.normalize import IntensityRange, match_channels, measure_range
from pipeline.records import Sample

P = TypeVar("P")
T = TypeVar("T")


class SampleSource(Protocol):
    """Annotated images, from each of which a window is cut as often as it is asked for."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Height and width of each image."""

    @property
    def class_pixels(self) -> Sequence[NDArray[np.int64]]:
        """(256,) pixels of each class id in each image."""

    def stream(
        self, picks: Iterable[tuple[int, P]], cut: Callable[[Sample, IntensityRange, P], T]
    ) -> Iterator[T]:
        """``cut(sample, bounds, detail)`` for each (number of the image, detail), in their order.

        `cut` may run in another process: it is small and brings all that it needs.
        """


class CachedSamples:
    """Images that are all in memory."""

    def __init__(
        self, samples: Sequence[Sample], channels: int, normalization: NormalizeSettings
    ) -> None:
        self._samples = [(s, measure(s, channels, normalization)) for s in samples]

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        return [sample.label.semantic.shape for sample, _ in self._samples]

    @property
    def class_pixels(self) -> Sequence[NDArray[np.int64]]:
        return [np.bincount(s.label.semantic.ravel(), minlength=256) for s, _ in self._samples]

    def stream(
        self, picks: Iterable[tuple[int, P]], cut: Callable[[Sample, IntensityRange, P], T]
    ) -> Iterator[T]:
        for index, detail in picks:
            yield cut(*self._samples[index], detail)


def measure(sample: Sample, channels: int, normalization: NormalizeSettings) -> IntensityRange:
    """The bounds that a whole image's crops are normalised by."""
    return measure_range(match_channels(sample.pixels, channels), normalization)
