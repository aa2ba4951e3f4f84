"""Normalised images of any sizes → the method's maps of each.

Regions of equal padded size, from whichever image, share a batch. What this module does not know:
files, tables, Ray.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import NormalizeSettings, RegionSettings
from pipeline.images.normalize import match_channels, measure_range, normalize
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.regions import Region, cut_regions
from pipeline.records import Maps, Pixels


@dataclass(frozen=True)
class _Task:
    image: int
    region: Region


class Predictor:
    """An engine with the normalisation and the regions that go with its model."""

    def __init__(
        self,
        engine: TorchEngine,
        channels: int,
        normalization: NormalizeSettings,
        regions: RegionSettings,
    ) -> None:
        self.engine = engine
        self.channels = channels
        self.normalization = normalization
        self.regions = regions

    def prepare(self, pixels: Pixels) -> NDArray[np.float32]:
        """(H, W, C) as in the file → the network's input.

        Raises:
            RejectError: the channels don't fit the network.
        """
        fitted = match_channels(pixels, self.channels)
        return normalize(fitted, measure_range(fitted, self.normalization))

    def predict(self, images: Sequence[NDArray[np.float32]]) -> list[Maps]:
        """Prepared images (H, W, C) → their maps (H, W)."""
        maps: list[dict[str, NDArray[np.uint8]]] = [{} for _ in images]
        for batch in self._batches(images):
            outputs = self.engine(np.stack([self._read(images[t.image], t.region) for t in batch]))
            for i, task in enumerate(batch):
                shape = images[task.image].shape[:2]
                for name, plane in outputs.items():
                    whole = maps[task.image].setdefault(name, np.empty(shape, np.uint8))
                    _paste_core(whole, plane[i], task.region)
        return list(maps)

    def _batches(self, images: Sequence[NDArray[np.float32]]) -> Iterator[list[_Task]]:
        halo = self.engine.context if self.regions.halo is None else self.regions.halo
        stride = self.engine.stride
        alike: defaultdict[tuple[int, int], list[_Task]] = defaultdict(list)
        for index, image in enumerate(images):
            for region in cut_regions(
                *image.shape[:2], size=self.regions.size, halo=halo, stride=stride
            ):
                alike[_padded(region, stride)].append(_Task(index, region))
        for (height, width), tasks in alike.items():
            length = max(1, self.regions.batch_pixels // (height * width))
            for start in range(0, len(tasks), length):
                yield tasks[start : start + length]

    def _read(self, image: NDArray[np.float32], region: Region) -> NDArray[np.float32]:
        box = region.read
        height, width = _padded(region, self.engine.stride)
        window = image[box.y0 : box.y1, box.x0 : box.x1]
        below, right = height - window.shape[0], width - window.shape[1]
        # As the network itself pads, so that sharing a batch changes nothing.
        return np.pad(window, ((0, below), (0, right), (0, 0)), mode="edge")


def _padded(region: Region, stride: int) -> tuple[int, int]:
    box = region.read
    return (
        -(-(box.y1 - box.y0) // stride) * stride,
        -(-(box.x1 - box.x0) // stride) * stride,
    )


def _paste_core(whole: NDArray[np.uint8], plane: NDArray[np.uint8], region: Region) -> None:
    core, read = region.core, region.read
    whole[core.y0 : core.y1, core.x0 : core.x1] = plane[
        core.y0 - read.y0 : core.y1 - read.y0, core.x0 - read.x0 : core.x1 - read.x0
    ]
