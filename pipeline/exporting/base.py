"""Which images are exported, and how their masks are walked over."""

import fnmatch
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.labels.files import stem
from pipeline.records import thing_ids
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tile
from pipeline.tables.snapshot import Snapshot

_LONGEST_NAME = 200
"""Bytes of a file's name without suffix: file systems allow 255, and a writer adds some for now."""
_TILE_COLUMNS = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]


@dataclass(frozen=True)
class Chosen:
    """An image to export."""

    image_id: str
    uri: str
    height: int
    width: int
    shard: str
    name: str
    """Of its file, without a suffix, cut where it is too long for a file's; no other image of the
    export has it."""


def choose_images(dataset: OutputDataset, pattern: str | None) -> list[Chosen]:
    """The images whose URI or file name matches a shell pattern; by default all.

    Raises:
        DatasetError: there are none, or no class of things, whose objects are what is exported.
    """
    if not thing_ids(dataset.classes):
        raise DatasetError(
            f"{dataset.uri} has no class of things, so no objects to export; its class maps are "
            f"the PNGs in the column semantic of {storage.join(dataset.uri, 'masks')}"
        )
    columns = ["image_id", "uri", "height", "width", "shard"]
    rows = dataset.read("images", columns).sort_by("uri").to_pylist()
    found = [row for row in rows if pattern is None or _matches(row["uri"], pattern)]
    if not found:
        what = "holds no image" if pattern is None else f"holds no image that matches {pattern}"
        raise DatasetError(f"{dataset.uri} {what}")
    names = [stem(row["uri"]) for row in found]
    seen = Counter(names)
    chosen = []
    for row, name in zip(found, names, strict=True):
        short = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        alone = seen[name] == 1 and short == name
        chosen.append(Chosen(name=name if alone else f"{short}-{row['image_id'][:8]}", **row))
    return chosen


def _matches(uri: str, pattern: str) -> bool:
    return fnmatch.fnmatch(uri, pattern) or fnmatch.fnmatch(storage.name_of(uri), pattern)


def object_batches(
    snapshot: Snapshot, image: Chosen, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The objects of an image, of all of its rows."""
    where = pc.field("image_id") == image.image_id
    return snapshot.around(image.image_id, image.shard).scan("objects", columns, where)


def label_bands(snapshot: Snapshot, image: Chosen) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The instance map of an image from top to bottom: first row, and (h, W) of object ids."""
    where = pc.field("image_id") == image.image_id
    batches = snapshot.around(image.image_id, image.shard).scan("masks", _TILE_COLUMNS, where)
    tiles = pa.Table.from_batches(batches).sort_by([("y0", "ascending"), ("x0", "ascending")])
    tops = tiles["y0"].to_numpy()
    start = 0
    while start < tiles.num_rows:
        # A tile that was cut in four makes its row of tiles two rows.
        bottom, end = 0, start
        while end < tiles.num_rows and (end == start or tops[end] < bottom):
            bottom = max(bottom, tiles["y1"][end].as_py())
            end += 1
        top = int(tops[start])
        band = np.zeros((bottom - top, image.width), np.int32)
        for row in range(start, end):
            tile = tiles.slice(row, 1).to_pylist()[0]
            _, labels, object_ids = decode_tile(tile)
            ids = np.append(0, object_ids).astype(np.int32)
            band[tile["y0"] - top : tile["y1"] - top, tile["x0"] : tile["x1"]] = ids[labels]
        yield top, band
        start = end
