"""Outputs of regions → the maps of a part of an image.

Where read boxes overlap, a pixel has the outputs of the region whose core it lies in, or those of
all, weighted by a Gaussian about the middle of each core (as Isensee et al. 2021, nnU-Net, do).
Either way a pixel's maps follow from where it lies in the image, not from the part that is asked
for: there is no seam.

Legend: H height, W width, K channels of a head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.methods.base import Method
from pipeline.predicting.regions import Region
from pipeline.records import Box, Maps

_SHARE = 8  # a read box is so many standard deviations of the Gaussian long, as in nnU-Net
_LEAST = 1e-4  # weight, so that corners which nobody else sees have one


@dataclass
class Canvas:
    """A part of an image on its way: each pixel is that of the region whose core it lies in."""

    pixels: NDArray[np.float32]
    """(H, W, C) of the image from `corner` on, prepared."""
    corner: tuple[int, int]
    core: Box
    """What is asked for."""
    size: tuple[int, int]
    """Height and width of the image."""
    method: Method
    _maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    @staticmethod
    def taken(method: Method, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, K, H, W) of a batch, on the device → what canvases keep of them, (B, ...)."""
        return {name: plane.cpu() for name, plane in method.maps(outputs).items()}

    def add(self, taken: Mapping[str, Tensor], region: Region) -> None:
        """Of a region's read box, perhaps with padding below and to the right."""
        (y, x), inner = self._windows(region.core, region.read)
        for name, plane in taken.items():
            whole = self._maps.setdefault(name, np.empty(self._shape, np.uint8))
            whole[y, x] = plane[inner].numpy()

    def maps(self) -> Maps:
        """(H, W) each, once all regions have been added."""
        return self._maps

    @property
    def _shape(self) -> tuple[int, int]:
        return self.core.y1 - self.core.y0, self.core.x1 - self.core.x0

    def _windows(self, box: Box, read: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """A box of the image, as far as it lies in the part: there, and in a read box."""
        y0, x0 = max(box.y0, self.core.y0), max(box.x0, self.core.x0)
        y1, x1 = min(box.y1, self.core.y1), min(box.x1, self.core.x1)

        def window(y: int, x: int) -> tuple[slice, slice]:
            return slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)

        return window(self.core.y0, self.core.x0), window(read.y0, read.x0)


@dataclass
class BlendedCanvas(Canvas):
    """A part of an image on its way: each pixel is the weighted mean of all regions that see it."""

    _sums: dict[str, Tensor] = field(default_factory=dict)
    _weights: Tensor | None = None

    @staticmethod
    def taken(method: Method, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: logits.float().cpu() for name, logits in outputs.items()}

    def add(self, taken: Mapping[str, Tensor], region: Region) -> None:
        (y, x), (inner_y, inner_x) = self._windows(region.read, region.read)
        weight = _gaussian(region)[inner_y, inner_x]
        if self._weights is None:
            self._weights = torch.zeros(self._shape)
        self._weights[y, x] += weight
        for name, logits in taken.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros(len(logits), *self._shape)
            self._sums[name][:, y, x] += logits[:, inner_y, inner_x] * weight

    def maps(self) -> Maps:
        assert self._weights is not None
        means = {name: (total / self._weights)[None] for name, total in self._sums.items()}
        return {name: plane[0].numpy() for name, plane in self.method.maps(means).items()}


def _gaussian(region: Region) -> Tensor:
    """(H, W) of the read box."""
    core, read = region.core, region.read
    sides = []
    for low, high, first, last in (
        (core.y0, core.y1, read.y0, read.y1),
        (core.x0, core.x1, read.x0, read.x1),
    ):
        place = torch.arange(first, last, dtype=torch.float64) + 0.5
        spread = (last - first) / _SHARE
        sides.append(torch.exp(-((place - (low + high) / 2) ** 2) / (2 * spread**2)))
    return torch.outer(*sides).clamp_min(_LEAST).float()
