"""A part of a large image ⇄ the Arrow table of one row that travels between Ray Data's stages."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.distributed.failures import Failure
from pipeline.distributed.stages import GraphSettings
from pipeline.distributed.timing import NO_SECONDS, SECONDS, StageSeconds
from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep, Opened, Rejected
from pipeline.records import Pixels, SourceImage


@dataclass(frozen=True)
class Part:
    """One part of a large image on its way."""

    shard: str
    source: SourceImage
    number: int
    opened: Opened
    failure: Failure | None = None
    reject: Rejected | None = None
    peak_memory: int = 0
    """Most bytes that a process held that has worked on it so far."""
    seconds: StageSeconds = NO_SECONDS

    @property
    def key(self) -> tuple[str, str, int]:
        return self.shard, self.source.image_id, self.number

    def keep(self, settings: GraphSettings) -> Keep:
        """Where what comes of it is kept."""
        return keep_of(self.shard, self.source, settings)

    def grid(self, settings: GraphSettings) -> Grid:
        """How its image is cut."""
        return grid_of(self.opened, settings)


def grid_of(opened: Opened, settings: GraphSettings) -> Grid:
    """How an image is cut: in whole regions."""
    height, width, _ = opened.shape
    return Grid(height, width, _side(settings))


def keep_of(shard: str, source: SourceImage, settings: GraphSettings) -> Keep:
    """Where what comes of an image is kept."""
    return Keep.of(settings.dataset, settings.run, shard, source.image_id, _side(settings))


def _side(settings: GraphSettings) -> int:
    return settings.cutting.side_of_parts(settings.predict.regions.spread)


def to_table(
    part: Part, pixels: Pixels | None = None, corner: tuple[int, int] = (0, 0)
) -> pa.Table:
    """A part with pixels that begin at `corner` of its image, if there are any."""
    source, opened = part.source, part.opened
    failure, reject = part.failure, part.reject
    row = {
        "shard": part.shard,
        "image_id": source.image_id,
        "uri": source.uri,
        "version": source.version,
        "size": source.size,
        "number": part.number,
        "shape": list(opened.shape),
        "low": list(opened.low),
        "high": list(opened.high),
        "by_window": opened.by_window,
        "pixels": None if pixels is None else pixels.tobytes(),
        "pixels_shape": None if pixels is None else list(pixels.shape),
        "dtype": None if pixels is None else pixels.dtype.str,
        "corner": list(corner),
        "failure": failure and [failure.kind, failure.message],
        "reject": reject and [reject.stage, reject.code, reject.message],
        "peak_memory": part.peak_memory,
        "seconds": asdict(part.seconds),
    }
    return pa.Table.from_pylist([row], _PART)


def part_of(table: pa.Table) -> Part:
    """The part that a table carries, without pixels and maps."""
    (row,) = table.select([name for name in _PART.names if name != "pixels"]).to_pylist()
    source = SourceImage(row["image_id"], row["uri"], row["version"], row["size"])
    opened = Opened(tuple(row["shape"]), tuple(row["low"]), tuple(row["high"]), row["by_window"])
    return Part(
        row["shard"],
        source,
        row["number"],
        opened,
        row["failure"] and Failure(*row["failure"]),
        row["reject"] and Rejected(*row["reject"]),
        row["peak_memory"],
        StageSeconds(**row["seconds"]),
    )


def pixels_of(table: pa.Table) -> tuple[Pixels, tuple[int, int]]:
    """The pixels that a table carries, and where in the image they begin."""
    data = table["pixels"][0].as_buffer()
    shape, dtype = table["pixels_shape"][0].as_py(), np.dtype(table["dtype"][0].as_py())
    y, x = table["corner"][0].as_py()
    return np.frombuffer(data, dtype).reshape(shape), (y, x)


def bare(table: pa.Table) -> pa.Table:
    """Without pixels and maps: the driver needs none."""
    return to_table(part_of(table))


_FIELDS: list[tuple[str, Any]] = [
    ("shard", pa.string()),
    ("image_id", pa.string()),
    ("uri", pa.string()),
    ("version", pa.string()),
    ("size", pa.int64()),
    ("number", pa.int64()),
    ("shape", pa.list_(pa.int64())),
    ("low", pa.list_(pa.float64())),
    ("high", pa.list_(pa.float64())),
    ("by_window", pa.bool_()),
    ("pixels", pa.large_binary()),
    ("pixels_shape", pa.list_(pa.int64())),
    ("dtype", pa.string()),
    ("corner", pa.list_(pa.int64())),
    ("failure", pa.list_(pa.string())),
    ("reject", pa.list_(pa.string())),
    ("peak_memory", pa.int64()),
    ("seconds", SECONDS),
]
_PART = pa.schema(_FIELDS)
