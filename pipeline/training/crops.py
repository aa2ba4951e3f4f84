"""Annotated images → batches of augmented crops.

Every crop is a function of (seed, epoch, position) alone, so that it doesn't matter which worker
makes it. Geometry is applied to image and label together, and a method makes its targets from the
label after that.

Legend: B batch, H height, W width, C channels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import AugmentSettings
from pipeline.images.normalize import IntensityRange, match_channels, normalize
from pipeline.methods.base import Method
from pipeline.records import Label, Pixels, Sample
from pipeline.training.samples import SampleSource

A = TypeVar("A", bound=np.generic)


@dataclass(frozen=True)
class Batch:
    """What one training step sees."""

    images: Tensor
    """(B, C, H, W) float32, channels last in memory."""
    targets: dict[str, Tensor]
    """name → (B, H, W)."""


@dataclass(frozen=True)
class Pick:
    """Which crop of a training: all that is random in it follows from this and the seed."""

    epoch: int
    position: int
    """In the order of the epoch's crops, of all workers together."""


@dataclass(frozen=True)
class Window:
    """The part of an image that a crop looks at."""

    pick: Pick
    pixels: Pixels
    label: Label
    matrix: NDArray[np.float64]
    """(2, 3) affine map from the crop's (x, y, 1) to the window's (x, y)."""
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
        matrix = _draw_geometry(height, width, self.crop, self.augment, rng)
        box, matrix = _cut_window(height, width, self.crop, matrix)
        label = Label(sample.label.semantic[box], sample.label.instances[box])
        return Window(pick, sample.pixels[box], label, matrix, bounds)


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
        seed: int,
    ) -> None:
        self.samples = samples
        self.method = method
        self.channels = channels
        self.crop = crop
        self.augment = augment
        self.seed = seed
        # Large images give more crops, but not in proportion to their area: an image counts once
        # in the figures, and its neighbourhoods resemble each other.
        self.shares = [max(1, round(math.sqrt(h * w) / crop)) for h, w in samples.sizes]

    def __len__(self) -> int:
        """Crops in one pass over the images."""
        return sum(self.shares)

    def order(self, epoch: int, length: int) -> NDArray[np.int64]:
        """(length,) which image each crop of an epoch comes from."""
        rng = np.random.default_rng((self.seed, epoch))
        once = np.repeat(np.arange(len(self.shares)), self.shares)
        passes = math.ceil(length / len(once))
        return np.concatenate([rng.permutation(once) for _ in range(passes)])[:length]

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
        picks = ((int(order[p]), Pick(epoch, p)) for group in groups for p in group)
        windows = self.samples.stream(picks, Cut(self.crop, self.augment, self.seed))
        for group in groups:
            yield self._batch([next(windows) for _ in group])

    def _batch(self, windows: list[Window]) -> Batch:
        images, targets = [], []
        for window in windows:
            pixels, label = self._crop(window)
            images.append(pixels)
            targets.append(self.method.targets(label))
        stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return Batch(
            images=stacked,  # (B, H, W, C) memory seen as (B, C, H, W): channels last for free
            targets={
                name: torch.from_numpy(np.stack([target[name] for target in targets]))
                for name in targets[0]
            },
        )

    def _crop(self, window: Window) -> tuple[NDArray[np.float32], Label]:
        # A stream of its own: the geometry was drawn where the window was cut.
        rng = np.random.default_rng((self.seed, window.pick.epoch, window.pick.position, 1))
        pixels = _warp(window.pixels, window.matrix, self.crop, cv2.INTER_LINEAR)
        values = normalize(match_channels(pixels, self.channels), window.bounds)
        semantic, instances = window.label.semantic, window.label.instances
        label = Label(
            semantic=_warp(semantic, window.matrix, self.crop, cv2.INTER_NEAREST),
            # OpenCV has no warp of 32-bit integers; float32 holds ids up to 2^24 exactly.
            instances=_warp(
                instances.astype(np.float32), window.matrix, self.crop, cv2.INTER_NEAREST
            ).astype(np.int32),
        )
        return _change_intensity(values, self.augment, rng), label


def _draw_geometry(
    height: int, width: int, crop: int, settings: AugmentSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(2, 3) affine map from the crop's (x, y, 1) to the image's (x, y)."""
    zoom = settings.scale ** rng.uniform(-1, 1)
    turn = rng.uniform(0, 2 * math.pi) if settings.rotate else 0.0
    mirror = 1.0
    if settings.flip:
        turn += math.pi / 2 * rng.integers(4)
        mirror = rng.choice([-1.0, 1.0])
    cos, sin = math.cos(turn) * zoom, math.sin(turn) * zoom
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    margins = [min(crop, size) / 2 for size in (width, height)]
    centre = (
        np.array(
            [
                rng.uniform(margins[0], width - margins[0]),
                rng.uniform(margins[1], height - margins[1]),
            ]
        )
        - 0.5
    )
    offset = centre - linear @ np.full(2, (crop - 1) / 2)
    return np.column_stack([linear, offset])


def _cut_window(
    height: int, width: int, crop: int, matrix: NDArray[np.float64]
) -> tuple[tuple[slice, slice], NDArray[np.float64]]:
    """The part of the image that the crop looks at, and the map into that part."""
    corners = np.array([[x, y, 1] for x in (0, crop - 1) for y in (0, crop - 1)]) @ matrix.T
    low = np.floor(corners.min(0)).astype(int) - 1
    high = np.ceil(corners.max(0)).astype(int) + 2
    x0, y0 = np.clip(low, 0, (width - 1, height - 1))
    x1, y1 = np.clip(high, (x0 + 1, y0 + 1), (width, height))
    shifted = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    return (slice(y0, y1), slice(x0, x1)), shifted


def _warp(
    image: NDArray[A], matrix: NDArray[np.float64], crop: int, interpolation: int
) -> NDArray[A]:
    """(crop, crop, ...) of an image of any type; outside it, the image is mirrored."""
    source = image if image.dtype in _WARPABLE else image.astype(np.float32)
    warped: NDArray[Any] = cv2.warpAffine(
        np.ascontiguousarray(source),
        matrix,
        (crop, crop),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return warped.reshape(crop, crop, *image.shape[2:]).astype(image.dtype, copy=False)


def _change_intensity(
    values: NDArray[np.float32], settings: AugmentSettings, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Contrast, brightness, gamma and noise on normalised (H, W, C) values."""
    strength = settings.intensity
    if strength > 0:
        gamma = math.exp(strength * rng.uniform(-1, 1))
        values = np.sign(values) * np.abs(values) ** np.float32(gamma)
        contrast = math.exp(strength * rng.uniform(-1, 1))
        jitter = rng.uniform(-1, 1, values.shape[-1:]).astype(np.float32)
        tint = np.float32(contrast) * (1 + np.float32(0.3 * strength) * jitter)
        shift = 0.5 * strength * rng.uniform(-1, 1)
        values = values * tint + np.float32(shift)
    if settings.noise > 0:
        deviation = np.float32(settings.noise * rng.uniform())
        values = values + deviation * rng.standard_normal(values.shape, np.float32)
    return values


_WARPABLE = (np.uint8, np.uint16, np.int16, np.float32, np.float64)
