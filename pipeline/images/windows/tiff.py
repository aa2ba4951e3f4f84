"""Windows of a TIFF, OME-TIFF, BigTIFF or Cloud-Optimised GeoTIFF: only the tiles that they touch.

tifffile reads the directory and decodes tiles; the bytes of the tiles come through our own door,
many at once.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import RejectError
from pipeline.images.reader import check_numbers
from pipeline.images.tiff import as_shown, check_all_bytes_are_there, first_series, layout_of
from pipeline.images.windows.levels import Level, LevelChoice, choose_level
from pipeline.records import Box, Pixels

_LARGEST_SEGMENT = 1 << 24  # values; a file whose segments are larger is not read by window
_MICRONS = {"cm": 1e4, "centimeter": 1e4, "inch": 25_400.0, "micrometer": 1.0, "µm": 1.0}
_RESOLUTION_UNITS = {2: 25_400.0, 3: 1e4}  # TIFF 6.0, ResolutionUnit: inch, centimetre


@dataclass(frozen=True)
class _Plane:
    """One page: a few samples a pixel, in segments of equal size."""

    page: tifffile.TiffPage
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]


class TiffWindows:
    """One level of a TIFF's first series."""

    def __init__(
        self, uri: str, planes: Sequence[_Plane], shape: tuple[int, int, int], shown: int
    ) -> None:
        """Use `open_tiff`."""
        self.uri = uri
        self.planes = planes
        self._size = shape[:2]
        self._shown = shown

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self._size, self._shown)

    def read(self, box: Box) -> Pixels:
        parts = [plane_part for plane in self.planes for plane_part in self._read(plane, box)]
        stored = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        return as_shown(stored, self.planes[0].page)

    def _read(self, plane: _Plane, box: Box) -> Iterator[NDArray[np.generic]]:
        """The window of each sample plane of a page, (H, W, samples)."""
        page = plane.page
        if page.is_memmappable:
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
        try:
            segment, (sample, _, y, x, _), _ = page.decode(
                data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader
            )
        except Exception as error:  # decoders have no common base for what damaged bytes do
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RejectError("corrupt", f"damaged TIFF: tile {index}: {reason[:200]}") from error
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
    try:
        with (
            storage.open_seekable(uri) as file,
            tifffile.TiffFile(file, name=storage.name_of(uri)) as tiff,
        ):
            series = first_series(tiff)
            level = series.levels[choose_level(_levels(series), choice)]
            length = file.seek(0, 2)
            layout = layout_of(level)
            check_all_bytes_are_there(level, length)
            planes = _planes(level)
            if planes is None:
                return None
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RejectError("corrupt", f"damaged TIFF: {reason[:200]}") from error
    page = planes[0].page
    if page.dtype is None:
        raise RejectError("layout", "pixels of its type are not supported")
    check_numbers(np.dtype(page.dtype))
    sample = np.zeros((1, 1, layout.size[2]), page.dtype)
    return TiffWindows(uri, planes, layout.size, as_shown(sample, page).shape[-1])


def _levels(series: tifffile.TiffPageSeries) -> list[Level]:
    """Sizes of the pyramid's levels, and of their pixels where the file says."""
    full = layout_of(series).size
    mpp = _microns_per_pixel(series.keyframe)
    sizes = [layout_of(level).size for level in series.levels]
    return [Level(height, width, mpp and mpp * full[1] / width) for height, width, _ in sizes]


def _microns_per_pixel(page: tifffile.TiffPage) -> float | None:
    """By OME's metadata, by a scanner's description, or by TIFF's resolution tags."""
    if page.parent.is_ome and page.parent.ome_metadata:
        pixels = _ome_pixels(page.parent.ome_metadata)
        size, unit = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "µm")
        if size is not None:
            return float(size) * _MICRONS.get(str(unit), 1.0)
    if page.is_svs:
        found = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description)  # Aperio's own words
        if found:
            return float(found.group(1))
    unit_tag, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    scale = _RESOLUTION_UNITS.get(int(unit_tag.value)) if unit_tag else None
    if scale is None or resolution is None or not resolution.value[0]:
        return None
    dots = resolution.value[0] / (resolution.value[1] or 1)
    return scale / dots if dots else None


def _ome_pixels(metadata: str) -> dict[str, str]:
    found = tifffile.xml2dict(metadata)["OME"]["Image"]
    image = found[0] if isinstance(found, list) else found
    return dict(image["Pixels"])


def _planes(level: tifffile.TiffPageSeries) -> list[_Plane] | None:
    """The pages of a level; None where they can't be read by window."""
    if any(page is None for page in level.pages):
        return None
    pages = [_whole_page(page) for page in level.pages if page is not None]
    first = pages[0]
    chunk = first.chunks if first.chunks else first.shape
    too_large = int(np.prod(chunk)) > _LARGEST_SEGMENT and not first.is_memmappable
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
        planes.append(_Plane(page, offsets, counts))
    return planes


def _whole_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    """A page with all of its tags: series of like pages hold frames that lean on the first."""
    return page if isinstance(page, tifffile.TiffPage) else page.aspage()


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
