"""Windows of a TIFF, OME-TIFF, BigTIFF or Cloud-Optimised GeoTIFF: only the tiles that they touch.

tifffile reads the directory and decodes tiles; the bytes of the tiles come through our own door,
many at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import RejectError
from pipeline.images.damage import refused
from pipeline.images.reader import check_numbers
from pipeline.images.tiff import (
    check_all_is_there,
    check_jpeg_is_whole,
    first_series,
    layout_of,
)
from pipeline.images.tiff_values import Values
from pipeline.images.windows.levels import Level, LevelChoice, choose_level
from pipeline.images.windows.tiff_sizes import microns_per_pixel
from pipeline.records import Box, Pixels

_LARGEST_SEGMENT = 1 << 24  # values; a file whose segments are larger is not read by window


@dataclass(frozen=True)
class _Plane:
    """One page: a few samples a pixel, in segments of equal size."""

    page: tifffile.TiffPage
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    in_rows: bool
    """Whether it is one run of numbers."""


class TiffWindows:
    """One level of a TIFF's first series."""

    def __init__(
        self, uri: str, planes: Sequence[_Plane], shape: tuple[int, int, int], values: Values
    ) -> None:
        """Use `open_tiff`.

        Args:
            shape: height and width, and channels as they are stored.
        """
        self.uri = uri
        self.planes = planes
        self.values = values
        sample = np.zeros((1, 1, shape[2]), planes[0].page.dtype)
        self._shape = (*shape[:2], values.shown(sample).shape[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def read(self, box: Box) -> Pixels:
        with refused("damaged TIFF"):
            parts = [plane_part for plane in self.planes for plane_part in self._read(plane, box)]
            stored = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
            return self.values.shown(stored)

    def _read(self, plane: _Plane, box: Box) -> Iterator[NDArray[np.generic]]:
        """The window of each sample plane of a page, (H, W, samples)."""
        page = plane.page
        if plane.in_rows:
            return self._read_rows(plane, box)
        height, width = box.y1 - box.y0, box.x1 - box.x0
        separate = page.shaped[0]
        whole = np.zeros((separate, height, width, page.shaped[-1]), page.dtype)
        if page.nodata:
            whole[:] = page.nodata
        wanted = list(_segments(page, box))
        ranges = [(int(plane.offsets[i]), int(plane.counts[i])) for i in wanted]
        present = [i for i, (_, count) in zip(wanted, ranges, strict=True) if count]
        found = storage.read_ranges(self.uri, [r for r in ranges if r[1]])
        for index, data in zip(present, found, strict=True):
            self._paste(whole, page, index, data, box)
        return iter(whole)

    def _read_rows(self, plane: _Plane, box: Box) -> Iterator[NDArray[np.generic]]:
        """The same of a page that is one run of numbers, as ImageJ writes it."""
        page = plane.page
        separate, _, length, width, samples = page.shaped
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        row = width * samples * dtype.itemsize
        first = int(plane.offsets[0])
        rows = [
            (first + (sample * length + box.y0) * row, (box.y1 - box.y0) * row)
            for sample in range(separate)
        ]
        for data in storage.read_ranges(self.uri, rows):
            whole = np.frombuffer(data, dtype).reshape(-1, width, samples)
            yield whole[:, box.x0 : box.x1].astype(page.dtype)

    def _paste(
        self,
        whole: NDArray[np.generic],
        page: tifffile.TiffPage,
        index: int,
        data: bytes,
        box: Box,
    ) -> None:
        check_jpeg_is_whole(page, index, data)
        with refused(f"damaged TIFF: tile {index}"):
            segment, (sample, _, y, x, _), _ = page.decode(
                data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader
            )
        if segment is None:
            return
        pixels = segment[0]
        y0, x0 = max(y, box.y0), max(x, box.x0)
        y1 = min(y + pixels.shape[0], box.y1)
        x1 = min(x + pixels.shape[1], box.x1)
        whole[sample, y0 - box.y0 : y1 - box.y0, x0 - box.x0 : x1 - box.x0] = pixels[
            y0 - y : y1 - y, x0 - x : x1 - x
        ]


def open_tiff(uri: str, choice: LevelChoice) -> TiffWindows | None:
    """The chosen level, or None where the file is not cut small enough to be read by window.

    Raises:
        RejectError: it is damaged, or is not one plane with channels, or has no such level.
        StorageError: the store did not give it.
    """
    with (
        refused("damaged TIFF"),
        storage.open_seekable(uri) as file,
        tifffile.TiffFile(file, name=storage.name_of(uri)) as tiff,
    ):
        series = first_series(tiff)
        level = series.levels[choose_level(_levels(series, choice), choice)]
        layout = layout_of(level)
        check_all_is_there(level, file.seek(0, 2))
        planes = _planes(level)
        if planes is None:
            return None
        page = planes[0].page
        if page.dtype is None:
            raise RejectError("layout", "pixels of its type are not supported")
        check_numbers(np.dtype(page.dtype))
        return TiffWindows(uri, planes, layout.size, Values.of(page, level.axes))


def _levels(series: tifffile.TiffPageSeries, choice: LevelChoice) -> list[Level]:
    """Sizes of the pyramid's levels, and of their pixels where these are asked for."""
    full = layout_of(series).size
    mpp = microns_per_pixel(series.keyframe) if choice.mpp else None
    sizes = [layout_of(level).size for level in series.levels]
    return [Level(height, width, mpp and mpp * full[1] / width) for height, width, _ in sizes]


def _planes(level: tifffile.TiffPageSeries) -> list[_Plane] | None:
    """The pages of a level; None where they can't be read by window."""
    pages = [_whole_page(page) for page in level.pages if page is not None]
    first = pages[0]
    chunk = first.chunks if first.chunks else first.shape
    too_large = int(np.prod(chunk)) > _LARGEST_SEGMENT and not _is_in_rows(first)
    if too_large or first.imagedepth != 1:
        return None
    if int(np.prod([len(pages), *first.shaped])) != int(np.prod(level.shape)):
        return None  # several planes in one page, as ImageJ writes stacks
    needed = int(np.prod(first.chunked))
    planes = []
    for page in pages:
        offsets = np.asarray(page.dataoffsets, np.int64)
        counts = np.asarray(page.databytecounts, np.int64)
        if min(len(offsets), len(counts)) < needed:
            raise RejectError("corrupt", "damaged TIFF: says less tiles than its size needs")
        page.init_decode()
        planes.append(_Plane(page, offsets, counts, _is_in_rows(page)))
    return planes


def _whole_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """A page with all of its tags: series of like pages hold frames that lean on the first."""
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


def _is_in_rows(page: tifffile.TiffPage) -> bool:
    """Whether its numbers follow one another, plain, and are all there."""
    return bool(page.is_final and page.dataoffsets[0] and sum(page.databytecounts) >= page.nbytes)


def _segments(page: tifffile.TiffPage, box: Box) -> Iterator[int]:
    """The tiles or strips of a page that a box touches."""
    if page.is_tiled:
        length, width = page.tilelength, page.tilewidth
    else:
        length, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
    down, across = -(-page.imagelength // length), -(-page.imagewidth // width)
    for sample in range(page.shaped[0]):
        for row in range(box.y0 // length, -(-box.y1 // length)):
            for column in range(box.x0 // width, -(-box.x1 // width)):
                yield (sample * down + row) * across + column
