"""Windows of an OME-Zarr image, 0.4 (Zarr 2) and 0.5 (Zarr 3): only the chunks that they touch.

A chunk that is not there holds the fill value, as Zarr means it; one that can't be decoded is
damage. Chunks come through our own door, which looks at what decoders don't: that they are whole.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.codecs import BloscCodec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.errors import ContainsArrayError

from pipeline import storage
from pipeline.errors import MissingError, RejectError
from pipeline.images.damage import refused
from pipeline.images.reader import check_numbers
from pipeline.images.windows.levels import Level, LevelChoice, choose_level
from pipeline.records import Box, Pixels

_MICRONS = {
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
    "angstrom": 1e-4,
}  # fmt: skip
_BLOSC_HEADER = 16  # bytes, of which the last four are the length of all


class ZarrWindows:
    """One level of an OME-Zarr image."""

    def __init__(self, array: Any, axes: str) -> None:
        """Use `open_zarr`.

        Args:
            axes: a letter an axis: c, y and x in any order, and others of length 1.
        """
        self.array = array
        self.axes = axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self._shape = sizes["y"], sizes["x"], sizes.get("c", 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def read(self, box: Box) -> Pixels:
        wanted = {"y": slice(box.y0, box.y1), "x": slice(box.x0, box.x1), "c": slice(None)}
        index = tuple(wanted.get(axis, 0) for axis in self.axes)
        with refused("damaged Zarr"):
            found = np.asarray(self.array[index])
        kept = [axis for axis in self.axes if axis in "cyx"]
        pixels = found.transpose([kept.index(axis) for axis in "yxc" if axis in kept])
        return np.ascontiguousarray(pixels if "c" in kept else pixels[..., None])


def open_zarr(uri: str, choice: LevelChoice) -> ZarrWindows:
    """The chosen level of an image.

    Raises:
        RejectError: it is no OME-Zarr image of one plane with channels, or has no such level.
        StorageError: the store did not give it.
    """
    store = DoorStore(uri)
    with refused("is no OME-Zarr image"):
        group, multiscale = _first_image(_open_group(store))
        axes = _axes(multiscale)
        arrays = [_array(group, entry["path"], axes) for entry in multiscale["datasets"]]
        levels = [
            _level(array.shape, axes, entry, multiscale)
            for array, entry in zip(arrays, multiscale["datasets"], strict=True)
        ]
        array = arrays[choose_level(levels, choice)]
        store.holds_blosc = _is_of_blosc(array)
    check_numbers(array.dtype)
    for axis, length in zip(axes, array.shape, strict=True):
        if axis not in "cyx" and length > 1:
            raise RejectError(
                "layout",
                f"is a stack of shape {array.shape} with axes {axes}; one plane an image is "
                "supported",
            )
    return ZarrWindows(array, axes)


def _open_group(store: "DoorStore") -> Any:
    try:
        return zarr.open_group(store, mode="r")
    except ContainsArrayError as error:
        raise RejectError(
            "layout", "is a bare Zarr array, of which nothing says where y and x are"
        ) from error


def _array(group: Any, path: str, axes: str) -> Any:
    try:
        array = group[path]
    except KeyError as error:
        raise RejectError(
            "corrupt", f"damaged Zarr: its level {path} is not there; was it copied whole?"
        ) from error
    except ValueError as error:
        if type(error).__name__ != "UnknownCodecError":  # Zarr's, or numcodecs'
            raise
        raise RejectError(
            "layout", f"is packed in a way that is not supported ({error}); store it with Zstandard"
        ) from error
    if array.ndim != len(axes):
        raise RejectError("layout", f"has axes {axes}, and a level {path} of shape {array.shape}")
    return array


def _is_of_blosc(array: Any) -> bool:
    """Whether each of its files is one run of bytes as Blosc packs them."""
    last = array.compressors[-1:]
    by_zarr_3 = any(isinstance(codec, BloscCodec) for codec in last)
    by_zarr_2 = any(getattr(codec, "codec_id", None) == "blosc" for codec in last)
    return array.shards is None and (by_zarr_3 or by_zarr_2)


def _first_image(group: Any) -> tuple[Any, dict[str, Any]]:
    """The group that holds the image, and what it says: as of a TIFF, the first of several.

    bioformats2raw puts a slide, its label and its overview into groups that are numbered.
    """
    described = _described(group)
    if "bioformats2raw.layout" in described:
        group = group["0"]
        described = _described(group)
    if "plate" in described:
        raise RejectError("layout", "is a plate of many images; one image a Zarr is supported")
    if not any(image.get("datasets") for image in described.get("multiscales", ())[:1]):
        raise RejectError(
            "layout", "is no OME-Zarr image: its metadata has no multiscales with datasets"
        )
    return group, described["multiscales"][0]


def _described(group: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(group.attrs)
    found: dict[str, Any] = attributes.get("ome", attributes)
    return found


def _axes(multiscale: dict[str, Any]) -> str:
    said = multiscale.get("axes", ())
    axes = "".join(a["name"] if isinstance(a, dict) else a for a in said)
    if not {"y", "x"} <= set(axes) or len(set(axes)) != len(axes):
        what = f"axes {axes}, which do" if axes else "metadata that does"
        raise RejectError("layout", f"has {what} not say where y and x are")
    return axes


def _level(
    shape: tuple[int, ...], axes: str, entry: dict[str, Any], multiscale: dict[str, Any]
) -> Level:
    sizes = dict(zip(axes, shape, strict=True))
    unit = next(
        (a.get("unit") for a in multiscale["axes"] if isinstance(a, dict) and a["name"] == "x"),
        None,
    )
    scale = 1.0
    known = False
    for step in [
        *entry.get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ]:
        if step.get("type") == "scale":
            scale *= float(step["scale"][axes.index("x")])
            known = True
    microns = _MICRONS.get(str(unit))
    return Level(sizes["y"], sizes["x"], scale * microns if known and microns else None)


def _is_cut_short(data: bytes) -> bool:
    """Of Blosc, whose decoder believes the length in the data, and reads on behind their end."""
    length = int.from_bytes(data[_BLOSC_HEADER - 4 : _BLOSC_HEADER], "little")
    return len(data) < max(length, _BLOSC_HEADER)


def _cut_short(key: str) -> RejectError:
    """Also without any bytes, which Zarr takes for a shard that is not there."""
    return RejectError("corrupt", f"damaged Zarr: its file {key} is cut short")


class DoorStore(Store):
    """Zarr's view of a folder behind our door, with our credentials and retries."""

    def __init__(self, uri: str, *, read_only: bool = True) -> None:
        super().__init__(read_only=read_only)
        self.uri = uri
        self.holds_blosc = False
        """Whether chunks are to be held against the length that Blosc says they have."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        uri = storage.join(self.uri, key)
        try:
            if part is None:
                data = storage.read_bytes(uri)
                if not data or (self.holds_blosc and _is_cut_short(data)):
                    raise _cut_short(key)
                return data
            if isinstance(part, RangeByteRequest):
                return storage.read_ranges(uri, [(part.start, part.end - part.start)])[0]
            found = storage.stat(uri)
            if found is None:
                return None
            if isinstance(part, SuffixByteRequest):
                if found.size < part.suffix:
                    raise _cut_short(key)
                start = found.size - part.suffix
            else:
                assert isinstance(part, OffsetByteRequest)
                start = part.offset
            return storage.read_ranges(uri, [(start, found.size - start)])[0]
        except MissingError:
            return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(storage.exists, storage.join(self.uri, key))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DoorStore) and other.uri == self.uri

    def __repr__(self) -> str:
        return self.uri

    @property
    def supports_writes(self) -> bool:
        return True

    @property
    def supports_deletes(self) -> bool:
        return True

    @property
    def supports_listing(self) -> bool:
        return False

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        uri = storage.join(self.uri, key)
        await asyncio.to_thread(storage.write_bytes, uri, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Also how Zarr writes a chunk that holds nothing but the fill value."""
        self._check_writable()
        await asyncio.to_thread(storage.remove, storage.join(self.uri, key))

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError("chunks are asked for by name")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("chunks are asked for by name")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("chunks are asked for by name")
