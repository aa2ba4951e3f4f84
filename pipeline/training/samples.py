"""Where crops come from: annotated images by number, held in memory or read again each time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from pipeline.config import NormalizeSettings
from pipeline.images.intensities import image_range
from pipeline.images.normalize import IntensityRange
from pipeline.images.windows.base import WholeImage
from pipeline.predicting.zoom import Zoom
from pipeline.records import Sample
from pipeline.training.zooming import zoomed

P = TypeVar("P")
T = TypeVar("T")


class SampleSource(Protocol):
    """Annotated images, from each of which a window is cut as often as it is asked for.

    They are as large as the network sees them.
    """

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Height and width of each image."""

    @property
    def classes_shown(self) -> Sequence[Sequence[int]]:
        """The ids of the classes that each image shows."""

    def stream(
        self, picks: Iterable[tuple[int, P]], cut: Callable[[Sample, IntensityRange, P], T]
    ) -> Iterator[T]:
        """``cut(sample, bounds, detail)`` for each (number of the image, detail), in their order.

        `cut` may run in another process: it is small and brings all that it needs.
        """


class CachedSamples:
    """Images that are all in memory."""

    def __init__(
        self,
        samples: Sequence[Sample],
        channels: int,
        normalization: NormalizeSettings,
        zoom: float = 1.0,
    ) -> None:
        factor = Zoom.of(zoom)
        self._samples = [(zoomed(s, factor), measure(s, channels, normalization)) for s in samples]

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        return [sample.label.semantic.shape for sample, _ in self._samples]

    @property
    def classes_shown(self) -> Sequence[Sequence[int]]:
        return [shown_classes(sample) for sample, _ in self._samples]

    def stream(
        self, picks: Iterable[tuple[int, P]], cut: Callable[[Sample, IntensityRange, P], T]
    ) -> Iterator[T]:
        for index, detail in picks:
            yield cut(*self._samples[index], detail)


def shown_classes(sample: Sample) -> list[int]:
    """The ids in the semantic map, VOID among them where there is some."""
    return np.flatnonzero(np.bincount(sample.label.semantic.ravel())).tolist()


def measure(sample: Sample, channels: int, normalization: NormalizeSettings) -> IntensityRange:
    """The bounds that a whole image's crops are normalised by."""
    return image_range(WholeImage(sample.pixels), channels, normalization)
