"""Cutting an image into regions: cores that tile it exactly, each inside a larger read box.

Starts of read boxes are multiples of the network's stride, in pixels of the image, so that pooling
falls on the same pixels as in the whole image; with a halo of the network's context a core's
outputs are those of the whole image.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import RegionSettings
from pipeline.predicting.zoom import Zoom
from pipeline.records import Box


@dataclass(frozen=True)
class Region:
    """A window that is predicted at once."""

    core: Box
    """What it answers for."""
    read: Box
    """What it looks at: the core and its halo, inside the image."""


@dataclass(frozen=True)
class Cutting:
    """How a network walks over images."""

    size: int
    """Side of a core in pixels, a multiple of the stride."""
    halo: int
    """Pixels read around it, likewise."""
    stride: int
    """The network's, in pixels of the image."""
    blended: bool = False
    """Whether a pixel's outputs are those of every region that reads it."""

    @classmethod
    def of(cls, settings: RegionSettings, stride: int, context: int, zoom: Zoom) -> "Cutting":
        """As the settings say, for a network of this stride and context, in its own pixels."""
        stride, context = zoom.stride(stride), zoom.context(context)
        halo = context if settings.halo is None else settings.halo
        return cls(
            _round_up(zoom.side(settings.size), stride),
            _round_up(halo, stride),
            stride,
            settings.blend == "gaussian",
        )

    def regions(self, height: int, width: int, within: Box | None = None) -> Iterator[Region]:
        """Of an image, or those whose outputs a part of it depends on."""
        if within is not None and self.blended:
            within = Box(
                max(within.y0 - self.halo, 0),
                max(within.x0 - self.halo, 0),
                min(within.y1 + self.halo, height),
                min(within.x1 + self.halo, width),
            )
        return cut_regions(
            height, width, size=self.size, halo=self.halo, stride=self.stride, within=within
        )

    def window(self, core: Box, height: int, width: int) -> Box:
        """What has to be read so that the maps of a part are those of the whole image."""
        read = [region.read for region in self.regions(height, width, core)]
        return Box(
            min(box.y0 for box in read),
            min(box.x0 for box in read),
            max(box.y1 for box in read),
            max(box.x1 for box in read),
        )

    def side_of_parts(self, least: int) -> int:
        """Pixels of the parts of a large image: whole regions."""
        return _round_up(least, self.size)


def cut_regions(
    height: int, width: int, *, size: int, halo: int, stride: int, within: Box | None = None
) -> Iterator[Region]:
    """Regions of an image, row by row. An image that fits in one core is one region.

    Args:
        size: side of a core in pixels; rounded up to a multiple of `stride`.
        halo: least pixels read around a core; rounded up likewise.
        stride: the network's.
        within: only those whose core touches this; by default all.
    """
    size, halo = _round_up(size, stride), _round_up(halo, stride)
    part = within or Box(0, 0, height, width)
    for y0 in range(part.y0 // size * size, part.y1, size):
        for x0 in range(part.x0 // size * size, part.x1, size):
            core = Box(y0, x0, min(y0 + size, height), min(x0 + size, width))
            read = Box(
                max(core.y0 - halo, 0),
                max(core.x0 - halo, 0),
                min(core.y1 + halo, height),
                min(core.x1 + halo, width),
            )
            yield Region(core, read)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
