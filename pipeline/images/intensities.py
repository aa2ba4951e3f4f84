"""Which pixels of an image say what its intensities are: a rule of its size alone.

So an image has the same range whether it is predicted at once or in parts.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.config import NormalizeSettings
from pipeline.images.normalize import IntensityRange, match_channels, measure_range
from pipeline.images.windows.base import WindowedImage
from pipeline.records import Box

_SAMPLE = 1 << 24  # pixels that the intensities of an image are measured from
_CELL = 512  # pixels, side of what is taken from a larger image


def image_range(
    image: WindowedImage,
    channels: int,
    settings: NormalizeSettings,
    chosen: Sequence[int] | None = None,
) -> IntensityRange:
    """What becomes 0 and 1, measured once for the image, so that its parts agree.

    Args:
        channels: of the network.
        chosen: see `match_channels`.

    Raises:
        RejectError: it is damaged, or has channels that the network does not take.
    """
    found = [image.read(box) for box in _measured(*image.shape[:2])]
    if len(found) > 1:
        found = [np.concatenate([cell.reshape(-1, 1, cell.shape[-1]) for cell in found])]
    return measure_range(match_channels(found[0], channels, chosen), settings)


def _measured(height: int, width: int) -> Iterator[Box]:
    """All of an image, or where that is too much cells spread evenly over it."""
    if height * width <= _SAMPLE:
        yield Box(0, 0, height, width)
        return
    down, across = -(-height // _CELL), -(-width // _CELL)
    wanted = min(down * across, _SAMPLE // _CELL**2)
    chosen = np.linspace(0, down * across - 1, wanted).round().astype(int)
    for cell in np.unique(chosen).tolist():
        y, x = cell // across * _CELL, cell % across * _CELL
        yield Box(y, x, min(y + _CELL, height), min(x + _CELL, width))
