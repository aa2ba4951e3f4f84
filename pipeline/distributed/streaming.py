"""Annotated images that are read again whenever they are needed, since they don't all fit.

Ray tasks read, decode and cut ahead of the training step, a few at a time and anywhere in the
cluster; only the windows that crops look at travel to the worker. So memory is bounded by what is
in flight, and the crops are the same as from images in memory.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar, cast, overload

import numpy as np
import ray
import ray.data

from pipeline.config import NormalizeSettings
from pipeline.distributed.session import data_context
from pipeline.images.normalize import IntensityRange
from pipeline.labels import AnnotatedData, read_sample
from pipeline.records import AnnotatedImage, Classes, Sample
from pipeline.training.samples import measure, shown_classes

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

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        return self.shapes

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

    def with_channels(self, channels: int) -> "StreamedSamples":
        """The same images for a network with so many input channels."""
        return replace(self, channels=channels)

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
        return self.stream(((i, None) for i in range(len(self))), _whole)


def decoded_bytes(data: AnnotatedData) -> int:
    """About how many bytes the decoded images and labels take, judged by an even sample."""
    images = data.images
    probes = min(_PROBES, len(images))
    chosen = [images[i * len(images) // probes] for i in range(probes)]
    found = [read_sample(image, data.classes, data.void) for image in chosen]
    sizes = [s.pixels.nbytes + s.label.semantic.nbytes + s.label.instances.nbytes for s in found]
    return sum(sizes) * len(images) // len(sizes)


def open_stream(
    data: AnnotatedData, split: str, normalization: NormalizeSettings
) -> StreamedSamples:
    """A split as a stream; every image and label is read once, so that a damaged one shows now."""
    images = sorted(data.split(split), key=lambda image: image.name)
    data_context()
    facts = (
        ray.data.from_items([{"i": i} for i in range(len(images))])
        .map_batches(
            partial(_read_facts, images=images, classes=data.classes, void=data.void),
            batch_size=_TOGETHER,
        )
        .take_all()
    )
    found = {int(row["i"]): [int(n) for n in row["shape"]] for row in facts}
    shown = {int(row["i"]): json.loads(row["shown"]) for row in facts}
    return StreamedSamples(
        images=tuple(images),
        shapes=tuple((found[i][0], found[i][1]) for i in range(len(images))),
        shown=tuple(tuple(shown[i]) for i in range(len(images))),
        classes=data.classes,
        void=data.void,
        channels=max(shape[2] for shape in found.values()),
        normalization=normalization,
    )


def _read_facts(
    batch: dict[str, Any], images: Sequence[AnnotatedImage], classes: Classes, void: int
) -> dict[str, Any]:
    samples = [read_sample(images[i], classes, void) for i in batch["i"]]
    return {
        "i": batch["i"],
        "shape": np.array([sample.pixels.shape for sample in samples]),
        "shown": [json.dumps(shown_classes(sample)) for sample in samples],
    }


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
        windows.append(cut(sample, bounds, detail))
    return windows
