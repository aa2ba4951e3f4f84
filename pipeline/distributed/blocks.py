"""Records ⇄ the Arrow tables that travel between Ray Data's stages.

One block is one shard. Pixels and maps travel as raw bytes with their shape beside them, so that
the reading side sees them without a copy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.records import Maps, Pixels, Reject, SourceImage

_MAP = "map:"


@dataclass(frozen=True)
class ReadImage:
    """An image of a shard after reading: pixels, or why there are none."""

    source: SourceImage
    pixels: Pixels | None
    reject: Reject | None


def to_table(shard: str, images: Sequence[ReadImage], maps: Sequence[Maps | None]) -> pa.Table:
    """A shard's images with the maps predicted so far; `maps` may be empty."""
    columns: dict[str, list[Any]] = {
        "shard": [shard] * len(images),
        "image_id": [image.source.image_id for image in images],
        "uri": [image.source.uri for image in images],
        "version": [image.source.version for image in images],
        "size": [image.source.size for image in images],
        "pixels": [raw_bytes(image.pixels) for image in images],
        "shape": [None if i.pixels is None else list(i.pixels.shape) for i in images],
        "dtype": [None if i.pixels is None else i.pixels.dtype.str for i in images],
        "stage": [image.reject and image.reject.stage for image in images],
        "code": [image.reject and image.reject.code for image in images],
        "message": [image.reject and image.reject.message for image in images],
    }
    schema = _READ
    for name in sorted({name for one in maps if one for name in one}):
        columns[_MAP + name] = [None if one is None else raw_bytes(one[name]) for one in maps]
        schema = schema.append(pa.field(_MAP + name, pa.large_binary()))
    return pa.table(columns, schema)


def shard_of(table: pa.Table) -> str:
    """The shard that a block is."""
    shard: str = table["shard"][0].as_py()
    return shard


def images_of(table: pa.Table) -> list[ReadImage]:
    """The images of a block."""
    buffers = _buffers(table["pixels"])
    rows = table.drop_columns(
        ["pixels", *(name for name in table.column_names if name.startswith(_MAP))]
    ).to_pylist()
    return [_read_image(row, buffer) for row, buffer in zip(rows, buffers, strict=True)]


def maps_of(table: pa.Table) -> list[dict[str, NDArray[np.uint8]]]:
    """The maps of a block, (H, W) each; empty for a rejected image."""
    shapes = table["shape"].to_pylist()
    maps: list[dict[str, NDArray[np.uint8]]] = [{} for _ in shapes]
    for name in table.column_names:
        if name.startswith(_MAP):
            for i, buffer in enumerate(_buffers(table[name])):
                if buffer is not None:
                    plane = np.frombuffer(buffer, np.uint8).reshape(shapes[i][:2])
                    maps[i][name.removeprefix(_MAP)] = plane
    return maps


def _read_image(row: Mapping[str, Any], buffer: pa.Buffer | None) -> ReadImage:
    source = SourceImage(row["image_id"], row["uri"], row["version"], row["size"])
    if buffer is None:
        return ReadImage(source, None, Reject(source, row["stage"], row["code"], row["message"]))
    pixels = np.frombuffer(buffer, np.dtype(row["dtype"])).reshape(row["shape"])
    return ReadImage(source, pixels, None)


def raw_bytes(array: NDArray[np.generic] | None) -> bytes | None:
    """An array's values; its shape and type go beside them.

    A copy, on purpose: pyarrow 26 never releases a memoryview that an array is built from.
    """
    return None if array is None else array.tobytes()


def _buffers(column: pa.ChunkedArray) -> list[pa.Buffer | None]:
    return [value.as_buffer() if value.is_valid else None for value in column]


_READ = pa.schema(
    [
        ("shard", pa.string()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size", pa.int64()),
        ("pixels", pa.large_binary()),
        ("shape", pa.list_(pa.int64())),
        ("dtype", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
