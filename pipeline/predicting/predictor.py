"""Normalised images of any sizes → the method's maps of each.

Regions of equal padded size, from whichever image, share a batch. What this module does not know:
files, tables, Ray.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import NormalizeSettings, RegionSettings
from pipeline.images.intensities import image_range
from pipeline.images.normalize import match_channels, normalize
from pipeline.images.windows.base import WholeImage
from pipeline.predicting.canvas import BlendedCanvas, Canvas
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.regions import Cutting, Region
from pipeline.records import Box, Maps, Pixels


@dataclass(frozen=True)
class _Task:
    canvas: Canvas
    region: Region


class Predictor:
    """An engine with the normalisation and the regions that go with its model."""

    def __init__(
        self,
        engine: TorchEngine,
        channels: int,
        normalization: NormalizeSettings,
        regions: RegionSettings,
        chosen: Sequence[int] | None = None,
    ) -> None:
        """Nothing is predicted yet.

        Args:
            channels: that the network takes.
            chosen: the channels of the images that it is shown; by default all.
        """
        self.engine = engine
        self.channels = channels
        self.chosen = chosen
        self.normalization = normalization
        self.cutting = Cutting.of(regions, engine.stride, engine.context, engine.zoom)
        self.batch_pixels = regions.batch_pixels

    def prepare(self, pixels: Pixels) -> NDArray[np.float32]:
        """(H, W, C) as in the file → the network's input.

        Raises:
            RejectError: the channels don't fit the network.
        """
        fitted = self.fit(pixels)
        bounds = image_range(WholeImage(fitted), self.channels, self.normalization)
        return normalize(fitted, bounds)

    def fit(self, pixels: Pixels) -> Pixels:
        """(H, W, C) with the channels that the network takes.

        Raises:
            RejectError: they can't be had.
        """
        return match_channels(pixels, self.channels, self.chosen)

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Maps]:
        """Prepared images (H, W, C) → their maps (H, W)."""
        wholes = [
            self._canvas(image, (0, 0), Box(0, 0, *image.shape[:2]), image.shape[:2])
            for image in images
        ]
        self._predict(wholes)
        return [whole.maps() for whole in wholes]

    def predict_core(
        self,
        pixels: NDArray[np.float32],
        corner: tuple[int, int],
        core: Box,
        size: tuple[int, int],
    ) -> Maps:
        """The maps (H, W) of a core of a larger image, whose sides are at sides of regions.

        Args:
            pixels: (H, W, C) of `Cutting.window`, prepared, which begin at `corner`.
            size: height and width of the image.
        """
        canvas = self._canvas(pixels, corner, core, size)
        self._predict([canvas])
        return canvas.maps()

    def _canvas(
        self,
        pixels: NDArray[np.float32],
        corner: tuple[int, int],
        core: Box,
        size: tuple[int, int],
    ) -> Canvas:
        kind = BlendedCanvas if self.cutting.blended else Canvas
        return kind(pixels, corner, core, size, self.engine.method)

    @torch.inference_mode()
    def _predict(self, canvases: Sequence[Canvas]) -> None:
        for batch in self._batches(canvases):
            outputs = self.engine(np.stack([self._read(task) for task in batch]))
            taken = batch[0].canvas.taken(self.engine.method, outputs)
            for i, task in enumerate(batch):
                task.canvas.add({name: planes[i] for name, planes in taken.items()}, task.region)

    def _batches(self, canvases: Sequence[Canvas]) -> Iterator[list[_Task]]:
        stride, seen = self.cutting.stride, self.engine.zoom.seen
        alike: defaultdict[tuple[int, int], list[_Task]] = defaultdict(list)
        for canvas in canvases:
            for region in self.cutting.regions(*canvas.size, canvas.core):
                alike[_padded(region, stride)].append(_Task(canvas, region))
        for (height, width), tasks in alike.items():
            pixels = max(height * width, seen(height) * seen(width))
            length = max(1, self.batch_pixels // pixels)
            for start in range(0, len(tasks), length):
                yield tasks[start : start + length]

    def _read(self, task: _Task) -> NDArray[np.float32]:
        box, (y, x) = task.region.read, task.canvas.corner
        height, width = _padded(task.region, self.cutting.stride)
        window = task.canvas.pixels[box.y0 - y : box.y1 - y, box.x0 - x : box.x1 - x]
        below, right = height - window.shape[0], width - window.shape[1]
        # As the network itself pads, so that sharing a batch changes nothing.
        return np.pad(window, ((0, below), (0, right), (0, 0)), mode="edge")


def _padded(region: Region, stride: int) -> tuple[int, int]:
    box = region.read
    return (
        -(-(box.y1 - box.y0) // stride) * stride,
        -(-(box.x1 - box.x0) // stride) * stride,
    )
