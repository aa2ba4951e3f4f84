"""Annotated images → batches of augmented crops.

Every crop is a function of (seed, epoch, position) alone, so that it doesn't matter which worker
makes it, nor with which others. Windows are cut from the images on the CPU; geometry and
intensities change on the training device, a batch at a time; a method makes its targets from the
labels after that.

Legend: B batch, H height, W width, C channels, S side of the crop.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import AugmentSettings, SamplingSettings
from pipeline.images.normalize import IntensityRange, match_channels
from pipeline.methods.base import Method
from pipeline.records import VOID, Label, Pixels, Sample
from pipeline.training.geometry import (
    Geometry,
    cut_plain,
    cut_window,
    draw_geometry,
    is_plain,
    sample_linear,
    sample_nearest,
    sampling_grid,
)
from pipeline.training.intensity import change_intensity, draw_intensity
from pipeline.training.samples import SampleSource


@dataclass(frozen=True)
class Batch:
    """What one training step sees."""

    images: Tensor
    """(B, C, S, S) float32, channels last in memory."""
    targets: dict[str, Tensor]
    """name → (B, S, S)."""


@dataclass(frozen=True)
class Pick:
    """Which crop of a training: all that is random in it follows from this and the seed."""

    epoch: int
    position: int
    """In the order of the epoch's crops, of all workers together."""
    focus: int | None = None
    """A class that the crop has to show, or `ANY_OBJECT`."""


ANY_OBJECT = VOID
"""The focus on an object of whichever class."""


@dataclass(frozen=True)
class Window:
    """The part of an image that a crop looks at."""

    pick: Pick
    pixels: Pixels
    label: Label
    geometry: Geometry
    """Into the window."""
    bounds: IntensityRange
    """Of the whole image."""


@dataclass(frozen=True)
class Cut:
    """Cuts from an image the window that a pick needs; small, so that it can be sent about."""

    crop: int
    augment: AugmentSettings
    seed: int

    def __call__(self, sample: Sample, bounds: IntensityRange, pick: Pick) -> Window:
        height, width = sample.pixels.shape[:2]
        rng = np.random.default_rng((self.seed, pick.epoch, pick.position))
        focus = _draw_focus(sample.label, pick.focus, rng)
        drawn = draw_geometry(height, width, self.crop, self.augment, rng, focus)
        box, geometry = cut_window(height, width, self.crop, drawn)
        label = Label(sample.label.semantic[box], sample.label.instances[box])
        return Window(pick, sample.pixels[box], label, geometry, bounds)


class CropSource:
    """Crops of annotated images, in an order and with changes drawn from the seed."""

    def __init__(
        self,
        samples: SampleSource,
        method: Method,
        *,
        channels: int,
        crop: int,
        augment: AugmentSettings,
        sampling: SamplingSettings,
        seed: int,
        device: torch.device,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Nothing is cut yet.

        Args:
            weights: how many times as many crops each image gives; by default once.
        """
        self.samples = samples
        self.method = method
        self.channels = channels
        self.crop = crop
        self.augment = augment
        self.sampling = sampling
        self.seed = seed
        self.device = device
        # Large images give more crops, but not in proportion to their area: an image counts once
        # in the figures, and its neighbourhoods resemble each other.
        crops = [max(1, round(math.sqrt(h * w) / crop)) for h, w in samples.sizes]
        self.shares = np.array(crops) * np.array(weights if weights is not None else 1.0)

    def __len__(self) -> int:
        """Crops in one pass over the images."""
        return round(float(self.shares.sum()))

    def order(self, epoch: int, length: int) -> list[tuple[int, Pick]]:
        """Which image each crop of an epoch comes from, and what it has to show."""
        rng = np.random.default_rng((self.seed, epoch))
        images = np.concatenate(list(self._passes(length, rng)))[:length]
        rare, objects = self.sampling.rare_class or 0.0, self.sampling.objects or 0.0
        places = self._places_of_classes() if rare else {}
        picks = []
        for position, (image, chance) in enumerate(zip(images, rng.random(length), strict=True)):
            index, focus = int(image), None
            if chance < rare and places:
                focus = int(rng.choice(list(places)))
                index = int(rng.choice(places[focus]))
            elif rare <= chance < rare + objects:
                focus = ANY_OBJECT
            picks.append((index, Pick(epoch, position, focus)))
        return picks

    def batches(
        self,
        epoch: int,
        steps: int,
        batch_size: int,
        rank: int,
        world: int,
        *,
        first: int = 0,
        parts: int = 1,
    ) -> Iterator[Batch]:
        """This worker's share, ``rank::world``, of each part of the epoch's global batches.

        Args:
            first: the step to begin with.
            parts: each global batch comes in so many parts, one after the other.
        """
        order = self.order(epoch, steps * batch_size)
        groups = [
            part[rank::world].tolist()
            for step in range(first, steps)
            for part in np.array_split(np.arange(step * batch_size, (step + 1) * batch_size), parts)
        ]
        picks = (order[position] for group in groups for position in group)
        windows = self.samples.stream(picks, Cut(self.crop, self.augment, self.seed))
        for group in groups:
            yield self._batch([next(windows) for _ in group])

    def _passes(self, length: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Passes over the images, each in another order; a share of 2.4 is 2 or 3 crops in each."""
        while length > 0:
            times = np.floor(self.shares + rng.random(len(self.shares))).astype(np.int64)
            yield rng.permutation(np.repeat(np.arange(len(times)), times))
            length -= int(times.sum())

    def _places_of_classes(self) -> dict[int, list[int]]:
        """Class id → the images that show it, for the classes that any image shows."""
        places: dict[int, list[int]] = {}
        known = {spec.id for spec in self.method.classes}
        for image, ids in enumerate(self.samples.classes_shown):
            for class_id in known.intersection(ids):
                places.setdefault(class_id, []).append(image)
        return dict(sorted(places.items()))

    def _batch(self, windows: list[Window]) -> Batch:
        # A stream of its own: the geometry was drawn where the window was cut.
        changes = [
            draw_intensity(
                self.channels,
                window.pixels.shape[-1] == 3,
                self.augment,
                np.random.default_rng((self.seed, window.pick.epoch, window.pick.position, 1)),
            )
            for window in windows
        ]
        pixels, labels = self._look(windows)
        images = change_intensity(self._normalize(pixels, windows), changes)
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            targets=self._targets(labels),
        )

    def _look(self, windows: list[Window]) -> tuple[Tensor, NDArray[np.int32]]:
        """(B, C, S, S) values as in the files, and (B, 2, S, S) classes and instances.

        Crops that are not warped need no interpolation, nor a grid to look up their pixels by.
        """
        pixels = torch.empty(len(windows), self.channels, self.crop, self.crop, device=self.device)
        labels = np.empty((len(windows), 2, self.crop, self.crop), np.int32)
        warped = []
        for place, window in enumerate(windows):
            if not is_plain(window.geometry):
                warped.append(place)
                continue
            seen = cut_plain(window.pixels, window.geometry, self.crop)
            values = match_channels(seen, self.channels).astype(np.float32)
            pixels[place] = torch.from_numpy(values).movedim(-1, 0)
            labels[place, 0] = cut_plain(window.label.semantic, window.geometry, self.crop)
            labels[place, 1] = cut_plain(window.label.instances, window.geometry, self.crop)
        if warped:
            some = [windows[place] for place in warped]
            sizes = [window.label.semantic.shape for window in some]
            grid = sampling_grid([w.geometry for w in some], sizes, self.crop, self.device)
            pixels[warped] = sample_linear(self._stack_pixels(some), grid)
            found = sample_nearest(_stack_labels(some).to(self.device), grid)
            labels[warped] = found.cpu().numpy()
        return pixels, labels

    def _stack_pixels(self, windows: list[Window]) -> Tensor:
        """(B, C, H, W) as in the files, of the largest window's size; the others end sooner."""
        height, width = (max(w.pixels.shape[axis] for w in windows) for axis in (0, 1))
        stacked = torch.zeros(len(windows), self.channels, height, width)
        for plane, window in zip(stacked, windows, strict=True):
            h, w = window.pixels.shape[:2]
            pixels = match_channels(window.pixels, self.channels).astype(np.float32)
            plane[:, :h, :w] = torch.from_numpy(pixels).movedim(-1, 0)
        return stacked.to(self.device)

    def _normalize(self, pixels: Tensor, windows: list[Window]) -> Tensor:
        """As `images.normalize.normalize`, a batch at a time and in place."""
        low, high = (
            torch.from_numpy(np.stack([getattr(w.bounds, end) for w in windows]))
            .to(self.device)
            .view(len(windows), self.channels, 1, 1)
            for end in ("low", "high")
        )
        span = high - low
        values = pixels.sub_(low).mul_(torch.where(span > 0, 1 / span, 0))
        return values.nan_to_num_(0.0, 3.0, -1.0).clamp_(-1, 3)

    def _targets(self, labels: NDArray[np.int32]) -> dict[str, Tensor]:
        found = [self.method.targets(Label(one[0].astype(np.uint8), one[1])) for one in labels]
        return {
            name: torch.from_numpy(np.stack([one[name] for one in found])).to(self.device)
            for name in found[0]
        }


def _stack_labels(windows: list[Window]) -> Tensor:
    """(B, 2, H, W) int32: classes and instances."""
    height, width = (max(w.label.semantic.shape[axis] for w in windows) for axis in (0, 1))
    stacked = torch.zeros(len(windows), 2, height, width, dtype=torch.int32)
    for plane, window in zip(stacked, windows, strict=True):
        h, w = window.label.semantic.shape
        plane[0, :h, :w] = torch.from_numpy(window.label.semantic.astype(np.int32))
        plane[1, :h, :w] = torch.from_numpy(window.label.instances.astype(np.int32))
    return stacked


def _draw_focus(
    label: Label, focus: int | None, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A random pixel (y, x) of the class, or of a random object; none where there is none."""
    if focus is None:
        return None
    if focus == ANY_OBJECT:
        ids = np.flatnonzero(np.bincount(label.instances.ravel())[1:]) + 1
        found = np.flatnonzero(label.instances == rng.choice(ids)) if len(ids) else ids
    else:
        found = np.flatnonzero(label.semantic == focus)
    if not len(found):
        return None
    y, x = divmod(int(rng.choice(found)), label.instances.shape[1])
    return y, x
