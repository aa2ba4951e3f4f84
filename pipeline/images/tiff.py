"""TIFF: which of its planes and pyramid levels are the image (`tiff_values`: what they show)."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile

from pipeline.errors import RejectError
from pipeline.images.tiff_values import Values
from pipeline.records import Pixels

_HEADER = 8  # bytes; tifffile takes a segment that begins there for one that was left out
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.ALT_JPEG)
_END_OF_IMAGE = b"\xff\xd9"  # a JPEG's last marker; never part of what is before it
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
        check_all_is_there(series, len(data))
        _check_jpegs(series, data)
        indices = as_indices and layout.size[2] == 1
        values = None if indices else Values.of(series.keyframe, series.axes)
        pixels = series.asarray().reshape(layout.shape)
        if layout.channel_axis is not None:
            pixels = np.moveaxis(pixels, layout.channel_axis, -1)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        return np.ascontiguousarray(pixels) if values is None else values.shown(pixels)


def tiff_has_palette(data: bytes) -> bool:
    """Whether the first series holds places in a palette."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        return bool(first_series(tiff).keyframe.photometric == tifffile.PHOTOMETRIC.PALETTE)


def first_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The series that is the image: the first that is not a smaller one or a mask of another.

    Leica's slides begin with an overview that is not said to be one: the largest is the slide.

    Raises:
        RejectError: there is none, or its tiles overlap.
    """
    if tiff.is_bif:
        raise RejectError(
            "layout", "is a Ventana BIF, whose tiles overlap; convert it with bioformats2raw"
        )
    if not tiff.series:
        raise RejectError("corrupt", "damaged TIFF: holds no image")
    if tiff.is_scn:
        return max(tiff.series, key=lambda series: series.keyframe.size)
    pages = ((series, series.keyframe) for series in tiff.series)
    full = (series for series, page in pages if not (page.is_reduced or page.is_mask))
    return next(full, tiff.series[0])


def layout_of(series: tifffile.TiffPageSeries) -> Layout:
    """Where the image lies in a series, or in one of its levels.

    Raises:
        RejectError: it is more than one plane with channels.
    """
    kept = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX"]
    axes, shape = "".join(a for a, _ in kept), tuple(n for _, n in kept)
    return Layout(shape, _channel_axis(axes, shape))


def check_all_is_there(series: tifffile.TiffPageSeries, length: int) -> None:
    """tifffile fills what is missing with zeros; here that is an error.

    Raises:
        RejectError: some plane is not in the file, or some segment does not lie inside it.
    """
    for page in series.pages:
        if page is None:
            raise RejectError("layout", "says it has planes that are not in this file")
        # Arrays, since a large image has many; a segment without bytes is left out on purpose.
        offsets, counts = (
            np.asarray(table, np.uint64)[: len(page.dataoffsets)]
            for table in (page.dataoffsets, page.databytecounts)
        )
        n = min(len(offsets), len(counts))
        ends = offsets[:n] + counts[:n]
        outside = (ends > length) | (ends < offsets[:n]) | (offsets[:n] < _HEADER)
        if ((counts[:n] > 0) & outside).any():
            raise RejectError("corrupt", "damaged TIFF: the file ends before its pixels do")


def check_jpeg_is_whole(page: tifffile.TiffPage, index: int, segment: bytes) -> None:
    """The decoder of JPEG makes up what is missing; here that is an error.

    Not of the pieces of one JPEG that Hamamatsu makes of an image: only the last has its end.

    Args:
        index: of the tile or strip.
        segment: its bytes, as they are in the file; of any compression.

    Raises:
        RejectError: it ends before its pixels do.
    """
    apart = page.compression in _JPEG and page.jpegheader is None
    if apart and _END_OF_IMAGE not in segment:
        raise RejectError(
            "corrupt", f"damaged TIFF: tile {index}: the JPEG ends before its pixels do"
        )


def _check_jpegs(series: tifffile.TiffPageSeries, data: bytes) -> None:
    """`check_jpeg_is_whole` of every tile or strip of a file, but those left out on purpose."""
    if series.keyframe.compression not in _JPEG:
        return
    for page in (page for page in series.pages if page is not None):
        places = zip(page.dataoffsets, page.databytecounts, strict=False)
        for index, (offset, count) in enumerate(places):
            if count:
                check_jpeg_is_whole(series.keyframe, index, data[offset : offset + count])


def _channel_axis(axes: str, shape: tuple[int, ...]) -> int | None:
    """Which axis holds channels. tifffile's letters: S sample, C channel, Q and I unnamed."""
    if axes == "YX":
        return None
    if len(axes) == 3:
        for position, axis in enumerate(axes):
            if axis in "SC":
                return position
        # An array written without saying what its axes are: the one without a name holds channels,
        # or where no axis has one, the short one.
        unnamed = [i for i, axis in enumerate(axes) if axis in "QI"]
        position = unnamed[0] if len(unnamed) == 1 else int(np.argmin(shape))
        if unnamed and position in (0, 2) and shape[position] <= _MOST_CHANNELS:
            return position
    raise RejectError(
        "layout", f"is a stack of shape {shape} with axes {axes}; one plane an image is supported"
    )
