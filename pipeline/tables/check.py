"""One shard held against its plan and its own tables: laws 1 and 4, for whoever doubts.

What is checked: every file can be read whole; each planned image has a row or a reject, once;
counts are the objects, grouped; objects are the labels in the masks, where those that may overlap
hide one another; the tiles cover each image.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from pipeline import storage
from pipeline.errors import DatasetError, MissingError
from pipeline.records import Shard
from pipeline.tables.files import from_parquet
from pipeline.tables.layout import shard_file
from pipeline.tables.masks import decode_tile
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.snapshot import Snapshot
from pipeline.tables.whole_objects import WHOLE_COLUMNS
from pipeline.wording import plural

Tables = Mapping[str, pa.Table]
Rows = list[dict[str, Any]]

_READ = ("image_id", "object_id", "class_id", "area")
"""Columns of objects that are looked at."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """unreadable, disagree, missing, twice, foreign, orphan or unswept."""
    where: str
    """A file, a shard or an image's URI."""
    what: str
    shard: str = ""
    """Whose rows can't be relied on, if it is that."""


def check_shard(snapshot: Snapshot, planned: Shard, *, overlapping: bool = False) -> list[Finding]:
    """What is wrong with a committed shard.

    Args:
        overlapping: whether objects may share pixels.
        planned: with the images that its plan names, those included that are replaced since;
            without any, where no plan knows the shard.

    Raises:
        StorageError: a file is there and was not to be had, which says nothing of what it holds.
    """
    read = _read(snapshot, planned.id)
    if read is None:
        return []
    tables, unreadable = read
    if unreadable:
        return unreadable
    found = [
        *_place(snapshot, planned),
        *_against_plan(tables, planned),
        *_against_one_another(tables, overlapping),
    ]
    partition = snapshot.shards[planned.id]
    file = shard_file(snapshot.uri, "images", partition, planned.id)
    return [Finding("disagree", file, what, planned.id) for what in found]


def _place(snapshot: Snapshot, planned: Shard) -> Iterator[str]:
    here = snapshot.shards[planned.id]
    if planned.images and here != planned.partition:
        yield f"shard {planned.id} lies in {here}, and was planned for {planned.partition}"


def _read(snapshot: Snapshot, shard: str) -> tuple[dict[str, pa.Table], list[Finding]] | None:
    """The tables, and what of them can't be read; None where the shard counts no more."""
    partition = snapshot.shards[shard]
    tables, unreadable = dict[str, pa.Table](), list[Finding]()
    for name, schema in SCHEMAS.items():
        file = shard_file(snapshot.uri, name, partition, shard)
        try:
            tables[name] = from_parquet(storage.read_bytes(file))
            if not tables[name].schema.equals(schema):
                raise DatasetError("has other columns than its table")
            if set(tables[name]["shard"].to_pylist()) - {shard}:
                raise DatasetError("holds rows of another shard")
        except (MissingError, DatasetError) as error:
            if not storage.exists(shard_file(snapshot.uri, "images", partition, shard)):
                return None  # it was replaced or taken out since
            unreadable.append(Finding("unreadable", file, str(error), shard))
    return tables, unreadable


def _against_plan(tables: Tables, planned: Shard) -> Iterator[str]:
    rows = Counter(_uris(tables["images"]) + _uris(tables["rejects"]))
    for (uri, version), n in rows.items():
        if n > 1:
            yield f"{uri} ({version}) is there {n} times"
    if not planned.images:
        return
    expected = {(image.uri, image.version) for image in planned.images}
    for uri, version in sorted(expected - rows.keys()):
        yield f"{uri} ({version}) was planned and has neither a row nor a reject"
    for uri, version in sorted(rows.keys() - expected):
        yield f"{uri} ({version}) was not planned for this shard"


def _against_one_another(tables: Tables, overlapping: bool) -> Iterator[str]:
    images = tables["images"].to_pylist()
    known = {row["image_id"] for row in images}
    seen = [*_READ, *WHOLE_COLUMNS] if overlapping else list(_READ)
    parts = {}
    for name in ("objects", "counts", "masks"):
        table = tables[name]
        parts[name] = _by_image(table.select(seen) if name == "objects" else table)
        for image_id in sorted(parts[name].keys() - known):
            yield f"{name} has rows of {image_id}, which is no image of the shard"
    for image in images:
        key = image["image_id"]
        mine = {name: part.get(key, tables[name].slice(0, 0)) for name, part in parts.items()}
        rows = mine["objects"], mine["counts"].to_pylist(), mine["masks"]
        for what in _image(image, *rows, overlapping):
            yield f"{image['uri']}: {what}"


def _image(
    image: dict[str, Any], objects: pa.Table, counts: Rows, masks: pa.Table, overlapping: bool
) -> Iterator[str]:
    if image["n_objects"] != objects.num_rows:
        rows = plural(objects.num_rows, "object has", "objects have")
        yield f"n_objects is {image['n_objects']}, and {rows} a row"
    ids, class_ids, areas = (objects[c].to_numpy() for c in ("object_id", "class_id", "area"))
    if len(np.unique(ids)) != len(ids):
        yield "an object_id is there twice"
    for row in counts:
        if row["n_objects"] is None:
            continue
        mine = class_ids == row["class_id"]
        found = (int(mine.sum()), int(areas[mine].sum()))
        if (row["n_objects"], row["object_area"]) != found:
            yield (
                f"counts has {row['n_objects']} {row['class_name']} of {row['object_area']} "
                f"pixels, objects {found[0]} of {found[1]}"
            )
    if set(np.unique(class_ids).tolist()) - {row["class_id"] for row in counts}:
        yield "objects are of a class that is not counted"
    told = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    if overlapping:
        yield from _areas(_encoded(objects), told, "their own masks")
    yield from _masks(image, told, counts, masks, overlapping)


def _masks(
    image: dict[str, Any],
    told: Mapping[int, int],
    counts: Rows,
    masks: pa.Table,
    overlapping: bool,
) -> Iterator[str]:
    """A tile at a time: an image may be larger than memory."""
    boxes = masks.select(["y0", "x0", "y1", "x1"]).to_pylist()
    whole = image["height"] * image["width"]
    covered = sum((row["y1"] - row["y0"]) * (row["x1"] - row["x0"]) for row in boxes)
    if covered != whole:
        yield f"masks cover {covered} of {whole} pixels"
        return
    if len({(row["y0"], row["x0"]) for row in boxes}) != len(boxes):
        yield "a tile of the masks is there twice"
        return
    pixels = np.zeros(256, np.int64)
    drawn: Counter[int] = Counter()
    try:
        for tile in range(masks.num_rows):
            semantic, labels, object_ids = decode_tile(masks.slice(tile, 1).to_pylist()[0])
            pixels += np.bincount(semantic.ravel(), minlength=256)
            found = np.bincount(labels.ravel(), minlength=len(object_ids) + 1)[1:]
            for object_id, area in zip(object_ids.tolist(), found.tolist(), strict=True):
                drawn[object_id] += area
    except (DatasetError, ValueError, IndexError) as error:
        yield f"a mask can't be decoded: {error}"
        return
    if overlapping:  # what lies below others is not drawn
        drawn.update({key: told[key] - drawn[key] for key in told if drawn[key] < told[key]})
    yield from _areas(drawn, told, "the masks")
    for row in counts:
        if pixels[row["class_id"]] != row["pixels"]:
            yield (
                f"counts has {row['pixels']} pixels of {row['class_name']}, "
                f"masks {pixels[row['class_id']]}"
            )


def _encoded(objects: pa.Table) -> dict[int, int]:
    """Object → the pixels of its own mask."""
    found = {}
    for row in objects.to_pylist():
        size = [row["y1"] - row["y0"], row["x1"] - row["x0"]]
        code = {"size": size, "counts": row["rle"].encode()}
        found[row["object_id"]] = int(coco_mask.area(code))
    return found


def _areas(drawn: Mapping[int, int], told: Mapping[int, int], where: str) -> Iterator[str]:
    drawn = {key: area for key, area in drawn.items() if area}
    differing = {key for key in drawn.keys() | told.keys() if drawn.get(key) != told.get(key)}
    if differing:
        first = min(differing)
        yield (
            f"{plural(len(differing), 'object differs', 'objects differ')} from {where}, such as "
            f"{first}: {told.get(first)} pixels, not {drawn.get(first)}"
        )


def _uris(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["uri"].to_pylist(), table["version"].to_pylist(), strict=True))


def _by_image(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each image."""
    ids = table["image_id"].combine_chunks().dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    codes = ids.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(ids.dictionary) + 1))
    return {
        name: table.take(pa.array(order[ends[k] : ends[k + 1]]))
        for k, name in enumerate(ids.dictionary.to_pylist())
    }
