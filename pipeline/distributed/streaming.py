"""Annotated images that are read again whenever they are needed, since they don't all fit.

Ray tasks read, decode and cut ahead of the training step, a few at a time and anywhere in the
cluster; only the windows that crops look at travel to the worker. So memory is bounded by what is
in flight, and the crops are the same as from images in memory.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar, cast, overload

import ray

from pipeline.config import NormalizeSettings
from pipeline.errors import TesseraError
from pipeline.images.normalize import IntensityRange
from pipeline.labels import AnnotatedData, read_sample
from pipeline.predicting.zoom import NO_ZOOM, Zoom
from pipeline.records import AnnotatedImage, Classes, Sample
from pipeline.survey.facts import ImageFacts
from pipeline.training.samples import measure
from pipeline.training.zooming import zoomed, zoomed_side

P = TypeVar("P")
T = TypeVar("T")

_PROBES = 8  # images that are decoded to judge the size of all
_TOGETHER = 2  # windows a task: fewer wait for a core, more make the first of them late
_IN_FLIGHT = 8  # tasks; with the windows that wait for their turn this bounds the memory


@dataclass(frozen=True)
class StreamedSamples(Sequence[Sample]):
    """A split's images as a source of windows, and as a sequence that is read as it is walked."""

    images: tuple[AnnotatedImage, ...]
    shapes: tuple[tuple[int, int], ...]
    """Height and width of each image."""
    shown: tuple[tuple[int, ...], ...]
    """The ids of the classes in each image."""
    classes: Classes
    void: int
    channels: int
    normalization: NormalizeSettings
    zoom: Zoom
    """Of the images that windows are cut from; as a sequence they have their own size."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        return [
            (zoomed_side(height, self.zoom), zoomed_side(width, self.zoom))
            for height, width in self.shapes
        ]

    @property
    def classes_shown(self) -> Sequence[Sequence[int]]:
        return self.shown

    def stream(
        self, picks: Iterable[tuple[int, P]], cut: Callable[[Sample, IntensityRange, P], T]
    ) -> Iterator[T]:
        todo, running = iter(picks), deque[Any]()
        reader, shared_cut = ray.put(self), ray.put(cut)
        while True:
            while len(running) < _IN_FLIGHT and (group := list(islice(todo, _TOGETHER))):
                running.append(_cut_windows.remote(reader, shared_cut, group))
            if not running:
                return
            yield from ray.get(running.popleft())

    @classmethod
    def of(
        cls,
        data: AnnotatedData,
        split: str,
        facts: Iterable[ImageFacts],
        channels: int,
        normalization: NormalizeSettings,
        zoom: float = 1.0,
    ) -> "StreamedSamples":
        """The images of a split, in the order of names, for a network with so many channels."""
        images = tuple(sorted(data.split(split), key=lambda image: image.name))
        known = {one.name: one for one in facts if one.split == split}
        found = [known[image.name] for image in images]
        return cls(
            images=images,
            shapes=tuple((one.height, one.width) for one in found),
            shown=tuple(
                tuple(spec.id for spec, n in zip(data.classes, one.class_pixels, strict=True) if n)
                for one in found
            ),
            classes=data.classes,
            void=data.void,
            channels=channels,
            normalization=normalization,
            zoom=Zoom.of(zoom),
        )

    def read(self, index: int) -> Sample:
        """One image, decoded here and now."""
        return read_sample(self.images[index], self.classes, self.void)

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "StreamedSamples": ...
    def __getitem__(self, index: int | slice) -> "Sample | StreamedSamples":
        if isinstance(index, slice):
            return replace(
                self,
                images=self.images[index],
                shapes=self.shapes[index],
                shown=self.shown[index],
            )
        return self.read(index)

    def __iter__(self) -> Iterator[Sample]:
        plain = replace(self, zoom=NO_ZOOM)
        return plain.stream(((i, None) for i in range(len(self))), _whole)


def decoded_bytes(data: AnnotatedData) -> int:
    """About how many bytes the decoded images and labels take, judged by an even sample."""
    images = data.images
    probes = min(_PROBES, len(images))
    chosen = [images[i * len(images) // probes] for i in range(probes)]
    sizes = []
    for image in chosen:
        with contextlib.suppress(TesseraError):  # the survey will tell
            found = read_sample(image, data.classes, data.void)
            label = found.label
            sizes.append(found.pixels.nbytes + label.semantic.nbytes + label.instances.nbytes)
    return sum(sizes) * len(images) // max(len(sizes), 1)


def _whole(sample: Sample, bounds: IntensityRange, detail: object) -> Sample:
    return sample


# Outside the training's own placement group; reading waits more than it computes.
@ray.remote(num_cpus=0.25, max_retries=3, scheduling_strategy="SPREAD")
def _cut_windows(
    samples: StreamedSamples, cut: Callable[[Sample, IntensityRange, Any], Any], picks: list[Any]
) -> list[Any]:
    windows = []
    for index, detail in picks:
        sample = samples.read(cast(int, index))
        bounds = measure(sample, samples.channels, samples.normalization)
        windows.append(cut(zoomed(sample, samples.zoom), bounds, detail))
    return windows
