"""Records ⇄ the Arrow tables that travel between Ray Data's stages.

One block is one shard. Pixels travel as raw bytes with their shape beside them, so that the reading
side sees them without a copy. Maps are compressed, since there may be many of them and little in
most, and unpacked an image at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.distributed.failures import Failure
from pipeline.distributed.timing import NO_SECONDS, SECONDS, StageSeconds
from pipeline.records import Maps, Pixels, Reject, RowKey, Shard, SourceImage

_MAP = "map:"
_CODEC = "lz4"


@dataclass(frozen=True)
class ReadImage:
    """An image of a shard on its way: not read yet, or its pixels, or why there are none."""

    source: SourceImage
    pixels: Pixels | None = None
    reject: Reject | None = None


@dataclass(frozen=True)
class Block:
    """One shard on its way, but for its maps."""

    shard: str
    partition: str
    images: tuple[ReadImage, ...]
    failure: Failure | None = None
    peak_memory: int = 0
    """Most bytes that a process held that has worked on it so far."""
    seconds: StageSeconds = NO_SECONDS

    @classmethod
    def planned(cls, shard: Shard, poison: Mapping[str, tuple[str, str]]) -> "Block":
        """As it starts; images that are known to end a process are rejects from the start."""
        images = []
        for source in shard.images:
            known = poison.get(source.image_id)
            reject = None if known is None else Reject(source, "process", *known)
            images.append(ReadImage(source, None, reject))
        return cls(shard.id, shard.partition, tuple(images))


PackedMaps = Mapping[str, bytes]


def packed(maps: Maps) -> PackedMaps:
    """The maps of an image, in little memory."""
    return {
        name: pa.compress(plane.tobytes(), _CODEC, asbytes=True) for name, plane in maps.items()
    }


def to_table(block: Block, maps: Sequence[PackedMaps | None] = ()) -> pa.Table:
    """A block with the maps predicted so far, if any."""
    images, failure, n = block.images, block.failure, len(block.images)
    replaced = [image.source.replaces for image in images]
    columns: dict[str, list[Any]] = {
        "shard": [block.shard] * n,
        "partition": [block.partition] * n,
        "image_id": [image.source.image_id for image in images],
        "uri": [image.source.uri for image in images],
        "version": [image.source.version for image in images],
        "size": [image.source.size for image in images],
        "old_shard": [old and old.shard for old in replaced],
        "old_image": [old and old.image_id for old in replaced],
        "pixels": [raw_bytes(image.pixels) for image in images],
        "shape": [None if i.pixels is None else list(i.pixels.shape) for i in images],
        "dtype": [None if i.pixels is None else i.pixels.dtype.str for i in images],
        "stage": [image.reject and image.reject.stage for image in images],
        "code": [image.reject and image.reject.code for image in images],
        "message": [image.reject and image.reject.message for image in images],
        "failure_kind": [failure and failure.kind] * n,
        "failure": [failure and failure.message] * n,
        "peak_memory": [block.peak_memory] * n,
        "seconds": [asdict(block.seconds)] * n,
    }
    schema = _BLOCK
    for name in sorted({name for one in maps if one for name in one}):
        columns[_MAP + name] = [None if one is None else one[name] for one in maps]
        schema = schema.append(pa.field(_MAP + name, pa.large_binary()))
    return pa.table(columns, schema)


def block_of(table: pa.Table) -> Block:
    """The block that a table carries, without its maps."""
    buffers = _buffers(table["pixels"])
    rows = table.drop_columns(
        ["pixels", *(name for name in table.column_names if name.startswith(_MAP))]
    ).to_pylist()
    first = rows[0]
    kind = first["failure_kind"]
    return Block(
        first["shard"],
        first["partition"],
        tuple(_read_image(row, buffer) for row, buffer in zip(rows, buffers, strict=True)),
        None if kind is None else Failure(kind, first["failure"]),
        first["peak_memory"],
        StageSeconds(**first["seconds"]),
    )


def maps_of(table: pa.Table) -> Iterator[dict[str, NDArray[np.uint8]]]:
    """The maps of each image of a block, (H, W) each; empty for a rejected image."""
    planes = {
        name.removeprefix(_MAP): _buffers(table[name])
        for name in table.column_names
        if name.startswith(_MAP)
    }
    for number, shape in enumerate(table["shape"].to_pylist()):
        maps = {}
        for name, buffers in planes.items():
            data = buffers[number]
            if data is not None:
                whole = pa.decompress(data, shape[0] * shape[1], _CODEC)
                maps[name] = np.frombuffer(whole, np.uint8).reshape(shape[:2])
        yield maps


def _read_image(row: Mapping[str, Any], buffer: pa.Buffer | None) -> ReadImage:
    old = row["old_shard"]
    replaces = None if old is None else RowKey(old, row["old_image"])
    source = SourceImage(row["image_id"], row["uri"], row["version"], row["size"], replaces)
    if buffer is not None:
        pixels = np.frombuffer(buffer, np.dtype(row["dtype"])).reshape(row["shape"])
        return ReadImage(source, pixels, None)
    if row["code"] is None:
        return ReadImage(source)
    return ReadImage(source, None, Reject(source, row["stage"], row["code"], row["message"]))


def raw_bytes(array: NDArray[np.generic] | None) -> bytes | None:
    """An array's values; its shape and type go beside them.

    A copy, on purpose: pyarrow 26 never releases a memoryview that an array is built from.
    """
    return None if array is None else array.tobytes()


def _buffers(column: pa.ChunkedArray) -> list[pa.Buffer | None]:
    return [value.as_buffer() if value.is_valid else None for value in column]


_BLOCK = pa.schema(
    [
        ("shard", pa.string()),
        ("partition", pa.string()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size", pa.int64()),
        ("old_shard", pa.string()),
        ("old_image", pa.string()),
        ("pixels", pa.large_binary()),
        ("shape", pa.list_(pa.int64())),
        ("dtype", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("failure_kind", pa.string()),
        ("failure", pa.string()),
        ("peak_memory", pa.int64()),
        ("seconds", SECONDS),
    ]
)
