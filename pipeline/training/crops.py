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
from pipeline.images.normalize import IntensityRange, match_channels, without_offset
from pipeline.methods.base import Method, OverlapMethod
from pipeline.overlaps import draw_covered
from pipeline.records import VOID, Box, InstanceMap, Label, Pixels, Sample
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

    def claim(self) -> None:
        """Keep the memory until the work that the current stream is given from here on is done.

        Where another stream made the batch, that one would take it back as soon as nobody here
        holds the batch, while the GPU may still be reading it.
        """
        for tensor in (self.images, *self.targets.values()):
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))


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

_LARGE = 1 << 20  # pixels of an image in all of which a focus would be looked for too long,
_DRAWN = 1 << 17  # and so many of them, drawn at random, in which it mostly is


@dataclass(frozen=True)
class Window:
    """The part of an image that a crop looks at."""

    pick: Pick
    pixels: Pixels
    label: Label
    geometry: Geometry
    """Into the window."""
    bounds: IntensityRange
    """Of the whole image, for these pixels."""
    covered: InstanceMap | None = None
    """The objects right below those of the label, for a method whose objects overlap."""


@dataclass(frozen=True)
class Cut:
    """Cuts from an image the window that a pick needs; small, so that it can be sent about."""

    crop: int
    augment: AugmentSettings
    seed: int
    overlapping: bool = False
    """Whether to look below objects as well."""

    def __call__(self, sample: Sample, bounds: IntensityRange, pick: Pick) -> Window:
        height, width = sample.pixels.shape[:2]
        rng = np.random.default_rng((self.seed, pick.epoch, pick.position))
        focus = _draw_focus(sample.label, pick.focus, rng)
        drawn = draw_geometry(height, width, self.crop, self.augment, rng, focus)
        box, geometry = cut_window(height, width, self.crop, drawn)
        label = Label(sample.label.semantic[box], sample.label.instances[box])
        covered = None
        if self.overlapping:
            rows, columns = box
            window = Box(rows.start, columns.start, rows.stop, columns.stop)
            covered = draw_covered(sample.label, window)
        pixels, about = without_offset(sample.pixels[box], bounds)
        return Window(pick, pixels, label, geometry, about, covered)


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
        overlapping = isinstance(self.method, OverlapMethod)
        cut = Cut(self.crop, self.augment, self.seed, overlapping)
        windows = self.samples.stream(picks, cut)
        for group in groups:
            yield self._batch([next(windows) for _ in group])

    def _passes(self, length: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Passes over the images, each in another order; a share of 2.4 is 2 or 3 crops in each."""
        while length > 0:
            times = np.floor(self.shares + rng.random(len(self.shares))).astype(np.int64)
            yield rng.permutation(np.repeat(np.arange(len(times)), times))
            length -= int(times.sum())

    def _places_of_classes(self) -> dict[int, NDArray[np.int64]]:
        """Class id → the images that show it, for the classes that any image shows.

        Not of the background, which crops show anyway.
        """
        places: dict[int, list[int]] = {}
        known = {spec.id for spec in self.method.classes if spec.kind != "background"}
        for image, ids in enumerate(self.samples.classes_shown):
            for class_id in known.intersection(ids):
                places.setdefault(class_id, []).append(image)
        # Not lists: each draw from one would copy it.
        return {class_id: np.array(places[class_id]) for class_id in sorted(places)}

    def _batch(self, windows: list[Window]) -> Batch:
        # A stream of its own: the geometry was drawn where the window was cut.
        changes = [
            draw_intensity(
                self.channels,
                self.channels == window.pixels.shape[-1] == 3,
                self.augment,
                np.random.default_rng((self.seed, window.pick.epoch, window.pick.position, 1)),
            )
            for window in windows
        ]
        pixels, semantic, *instances = self._look(windows)
        images = change_intensity(self._normalize(pixels, windows), changes)
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            targets=self.method.targets(semantic, *instances),
        )

    def _look(self, windows: list[Window]) -> list[Tensor]:
        """(B, C, S, S) values as in the files, and (B, S, S) each of what labels say.

        Crops that are not warped need no interpolation, nor a grid to look up their pixels by: on a
        CPU, that is; a GPU rather looks at all alike.
        """
        batch, side, device = len(windows), self.crop, self.device
        pixels = torch.empty(batch, self.channels, side, side, device=device)
        planes = [_planes(window) for window in windows]
        seen = [
            torch.empty(batch, side, side, dtype=torch.from_numpy(plane[:0]).dtype, device=device)
            for plane in planes[0]
        ]
        warped = []
        for place, window in enumerate(windows):
            geometry = window.geometry
            if device.type != "cpu" or not is_plain(geometry):
                warped.append(place)
                continue
            cut = match_channels(cut_plain(window.pixels, geometry, side), self.channels)
            pixels[place] = torch.from_numpy(cut.astype(np.float32)).movedim(-1, 0)
            for whole, plane in zip(seen, planes[place], strict=True):
                whole[place] = torch.from_numpy(cut_plain(plane, geometry, side))
        if warped:
            some = [windows[place] for place in warped]
            sizes = [window.label.semantic.shape for window in some]
            grid = sampling_grid([w.geometry for w in some], sizes, side, device)
            self._look_linear(some, grid, pixels, warped)
            for number, whole in enumerate(seen):
                stacked = _stack([planes[place][number] for place in warped], device)
                whole[warped] = sample_nearest(stacked.unsqueeze(1), grid).squeeze(1)
        return [pixels, *seen]

    def _look_linear(
        self, windows: list[Window], grid: Tensor, pixels: Tensor, places: list[int]
    ) -> None:
        """Interpolate windows into `pixels` at `places`; gray ones are repeated only there."""
        fitting = [
            one.pixels if one.pixels.shape[-1] == 1 else match_channels(one.pixels, self.channels)
            for one in windows
        ]
        for channels in {one.shape[-1] for one in fitting}:
            alike = [number for number, one in enumerate(fitting) if one.shape[-1] == channels]
            stacked = _stack([fitting[number] for number in alike], self.device)
            seen = sample_linear(stacked.movedim(-1, 1).float(), grid[alike])
            pixels[[places[number] for number in alike]] = seen.expand(-1, self.channels, -1, -1)

    def _normalize(self, pixels: Tensor, windows: list[Window]) -> Tensor:
        """As `images.normalize.normalize`, a batch at a time and in place."""
        low, high = (
            torch.from_numpy(np.stack([getattr(w.bounds, end) for w in windows]))
            .float()
            .to(self.device)
            .view(len(windows), self.channels, 1, 1)
            for end in ("low", "high")
        )
        span = high - low
        values = pixels.sub_(low).mul_(torch.where(span > 0, 1 / span, 0))
        return values.nan_to_num_(0.0, 3.0, -1.0).clamp_(-1, 3)


def _planes(window: Window) -> list[NDArray[np.integer]]:
    """(H, W) each: classes, objects and, where they are looked at, the objects below those."""
    label = window.label
    below = [] if window.covered is None else [window.covered]
    return [label.semantic, label.instances, *below]


def _stack(arrays: Sequence[NDArray[np.generic]], device: torch.device) -> Tensor:
    """(H, W, …) arrays → (B, H, W, …), as large as the largest; zeros follow where one ends."""
    size = [max(array.shape[axis] for array in arrays) for axis in (0, 1)]
    shape = (len(arrays), *size, *arrays[0].shape[2:])
    dtype = torch.from_numpy(np.empty(0, np.result_type(*arrays))).dtype
    # From pinned memory a GPU fetches by itself.
    stacked = torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    for plane, array in zip(stacked.numpy(), arrays, strict=True):
        height, width = array.shape[:2]
        plane[:height, :width] = array
        plane[height:], plane[:height, width:] = 0, 0
    return stacked.to(device, non_blocking=True)


def _draw_focus(
    label: Label, focus: int | None, rng: np.random.Generator
) -> tuple[int, int] | None:
    """A random pixel (y, x) of the class, or of a random object; none where there is none."""
    if focus is None:
        return None
    plane = label.instances if focus == ANY_OBJECT else label.semantic
    values, found = plane.ravel(), np.zeros(0, np.int64)
    if values.size > _LARGE:
        some = rng.integers(values.size, size=_DRAWN)
        found = some[_places_of(focus, values[some], rng)]
    if not len(found):
        found = _places_of(focus, values, rng)
    if not len(found):
        return None
    y, x = divmod(int(rng.choice(found)), plane.shape[1])
    return y, x


def _places_of(
    focus: int, values: NDArray[np.integer], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Where the class is, or a random one of the objects."""
    if focus != ANY_OBJECT:
        return np.flatnonzero(values == focus)
    inside = np.flatnonzero(values)
    if not len(inside):
        return inside
    ids = np.flatnonzero(np.bincount(values[inside]))
    chosen: NDArray[np.int64] = inside[values[inside] == rng.choice(ids)]
    return chosen
