"""TIFF: which of its planes and pyramid levels are the image, and what its numbers mean."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline.errors import RejectError
from pipeline.records import Pixels

_MOST_CHANNELS = 64  # a longer first or last axis of unnamed meaning is a stack, not channels


@dataclass(frozen=True)
class Layout:
    """Where the image lies in a series."""

    shape: tuple[int, ...]
    """Without axes of length 1."""
    channel_axis: int | None
    """In `shape`."""

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        if self.channel_axis is None:
            return (*self.shape[-2:], 1)  # type: ignore[return-value]
        rest = [n for axis, n in enumerate(self.shape) if axis != self.channel_axis]
        return (rest[0], rest[1], self.shape[self.channel_axis])


def decode_tiff(data: bytes, admit: Callable[[int, int], None], as_indices: bool) -> Pixels:
    """The first series of a file, (H, W, C)."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = first_series(tiff)
        admit(series.keyframe.imagelength, series.keyframe.imagewidth)
        layout = layout_of(series)
        check_all_bytes_are_there(series, len(data))
        pixels = series.asarray().reshape(layout.shape)
        if layout.channel_axis is not None:
            pixels = np.moveaxis(pixels, layout.channel_axis, -1)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if as_indices and pixels.shape[-1] == 1:
            return np.ascontiguousarray(pixels)
        return as_shown(pixels, series.keyframe)


def first_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The series that is the image.

    Raises:
        RejectError: there is none.
    """
    if not tiff.series:
        raise RejectError("corrupt", "damaged TIFF: holds no image")
    return tiff.series[0]


def layout_of(series: tifffile.TiffPageSeries) -> Layout:
    """Where the image lies in a series, or in one of its levels.

    Raises:
        RejectError: it is more than one plane with channels.
    """
    kept = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
    axes, shape = "".join(a for a, _ in kept), tuple(n for _, n in kept)
    return Layout(shape, _channel_axis(axes, shape))


def as_shown(pixels: NDArray[np.generic], page: tifffile.TiffPage) -> Pixels:
    """(H, W, C) as stored → intensities: white is high, palettes are looked up, alpha dropped."""
    photometric = page.photometric
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype.str).max - pixels
    if photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return (np.moveaxis(page.colormap[:, pixels[..., 0]], 0, -1) >> 8).astype(np.uint8)
    is_rgb = photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
    has_alpha = any(extra in (1, 2) for extra in page.extrasamples)
    if (pixels.shape[-1] == 4 and is_rgb) or (pixels.shape[-1] == 2 and has_alpha):
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(pixels)


def check_all_bytes_are_there(series: tifffile.TiffPageSeries, length: int) -> None:
    """tifffile fills what is missing behind a truncation with zeros; here that is an error.

    Raises:
        RejectError: some segment does not lie inside the file.
    """
    for page in series.pages:
        if page is None:
            continue
        # Arrays, since a large image has many; a segment without bytes is left out on purpose.
        offsets, counts = (
            np.asarray(table, np.uint64)[: len(page.dataoffsets)]
            for table in (page.dataoffsets, page.databytecounts)
        )
        n = min(len(offsets), len(counts))
        ends = offsets[:n] + counts[:n]
        if ((counts[:n] > 0) & (ends > length)).any():
            raise RejectError("corrupt", "damaged TIFF: the file ends before its pixels do")


def _channel_axis(axes: str, shape: tuple[int, ...]) -> int | None:
    """Which axis holds channels. tifffile's letters: S sample, C channel, Q and I unnamed."""
    if axes == "YX":
        return None
    if len(axes) == 3:
        for position, axis in enumerate(axes):
            if axis in "SC":
                return position
        # An array written without saying what its axes are: the short one is the channels.
        position = int(np.argmin(shape))
        if set(axes) & set("QI") and position in (0, 2) and shape[position] <= _MOST_CHANNELS:
            return position
    raise RejectError(
        "layout", f"is a stack of shape {shape} with axes {axes}; one plane an image is supported"
    )
