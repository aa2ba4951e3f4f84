"""One shard: its rows, and the commit that makes them count.

File names are made of table, partition and shard alone and each table is written whole, so whoever
computes a shard again writes the same files again. The images file is written last: it is the
commit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.records import (
    Classes,
    ObjectMeasures,
    PredictedImage,
    Reject,
    SourceImage,
    reported,
)
from pipeline.tables.files import to_parquet
from pipeline.tables.layout import record_file, shard_file
from pipeline.tables.masks import encode_tiles
from pipeline.tables.replacing import record_of, write_record
from pipeline.tables.schema import COUNTS, IMAGES, MASKS, OBJECTS, REJECTS, SCHEMAS

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Provenance:
    """What every row carries of where it comes from."""

    shard: str
    run: str
    model: str
    """Fingerprint of the model bundle."""
    partition: str = ""
    """Hive directory of the shard's files."""


def commit_shard(
    dataset: str,
    images: Sequence[PredictedImage],
    rejects: Sequence[Reject],
    classes: Classes,
    provenance: Provenance,
    before_commit: Callable[[], None] = lambda: None,
) -> int:
    """Write all tables of a shard, images last. Returns the bytes written.

    Args:
        before_commit: raises when this process may no longer commit.
    """
    tables = {
        "objects": objects_table(images, classes, provenance),
        "counts": with_provenance(_count_rows(images, classes), COUNTS, provenance),
        "masks": with_provenance(_mask_rows(images), MASKS, provenance),
        "rejects": with_provenance(reject_rows(rejects), REJECTS, provenance),
        "images": with_provenance(_image_rows(images, provenance), IMAGES, provenance),
    }
    sources = [image.source for image in images] + [reject.source for reject in rejects]
    record = record_of(sorted(sources, key=lambda source: source.uri))
    return write_tables(
        dataset, provenance.partition, provenance.shard, tables, record, before_commit
    )


def write_tables(
    dataset: str,
    partition: str,
    shard: str,
    tables: Mapping[str, pa.Table],
    record: pa.Table,
    before_commit: Callable[[], None],
) -> int:
    """The files of a shard in the order that makes its last one the commit.

    A store that is away may keep that one waiting until another run has taken over, so whether it
    may be written is asked in each try.
    """
    written = 0
    for name in SCHEMAS:
        data, file = to_parquet(tables[name]), shard_file(dataset, name, partition, shard)
        if name == "images":
            write_record(dataset, shard, record)
            storage.write_bytes(file, data, before_commit)
        else:
            storage.write_bytes(file, data)
        written += len(data)
    return written


def discard_shards(dataset: str, shards: Mapping[str, str]) -> None:
    """Remove shards' files: first those that make them count, last what they replace.

    Args:
        shards: shard → partition.
    """
    for name in reversed(SCHEMAS):
        storage.remove_many(
            shard_file(dataset, name, partition, shard) for shard, partition in shards.items()
        )
    storage.remove_many(record_file(dataset, shard) for shard in shards)


def objects_table(
    images: Sequence[PredictedImage], classes: Classes, provenance: Provenance
) -> pa.Table:
    """A row an object; built by columns, since there are many."""
    parts = []
    for image in images:
        found = image.segmentation
        ids = np.arange(1, len(found.class_ids) + 1)
        key = (image.source.image_id, provenance.shard)
        parts.append(object_rows(key, ids, found.class_ids, found.scores, image.measures, classes))
    return pa.concat_tables([OBJECTS.empty_table(), *parts]).combine_chunks()


def object_rows(
    key: tuple[str, str],
    object_ids: NDArray[np.int64],
    class_ids: NDArray[np.integer[Any]],
    scores: NDArray[np.float32],
    measures: ObjectMeasures,
    classes: Classes,
) -> pa.Table:
    """Rows of the objects table.

    Args:
        key: the image and the shard.
    """
    names = {spec.id: spec.name for spec in classes}
    n = len(class_ids)
    columns = {
        "image_id": [key[0]] * n,
        "object_id": object_ids,
        "class_id": class_ids.astype(np.int32),
        "class_name": [names[int(class_id)] for class_id in class_ids],
        "score": scores,
        **{name: measures.boxes[:, i] for i, name in enumerate(("y0", "x0", "y1", "x1"))},
        "centroid_y": measures.centroids[:, 0],
        "centroid_x": measures.centroids[:, 1],
        "area": measures.areas,
        "major_axis": measures.major_axes,
        "minor_axis": measures.minor_axes,
        "eccentricity": measures.eccentricities,
        "intensity_mean": list(measures.intensity_means),
        "intensity_std": list(measures.intensity_stds),
        "truncated": measures.truncated,
        "rle": measures.rles,
        "shard": [key[1]] * n,
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in OBJECTS], OBJECTS)


@dataclass(frozen=True)
class ClassTotals:
    """Sums over one image, by class id: (256,) each."""

    pixels: NDArray[np.int64]
    objects: NDArray[np.int64]
    areas: NDArray[np.int64]
    """Pixels of the objects."""


def count_rows(source: SourceImage, totals: ClassTotals, classes: Classes) -> Rows:
    """Rows of the counts table of one image."""
    return [
        {
            "image_id": source.image_id,
            "uri": source.uri,
            "class_id": spec.id,
            "class_name": spec.name,
            "n_objects": int(totals.objects[spec.id]) if spec.kind == "thing" else None,
            "object_area": int(totals.areas[spec.id]) if spec.kind == "thing" else None,
            "pixels": int(totals.pixels[spec.id]),
        }
        for spec in reported(classes)
    ]


def _count_rows(images: Iterable[PredictedImage], classes: Classes) -> Rows:
    rows: Rows = []
    for image in images:
        found = image.segmentation
        areas = np.bincount(found.class_ids, image.measures.areas, minlength=256)
        totals = ClassTotals(
            pixels=np.bincount(found.semantic.ravel(), minlength=256),
            objects=np.bincount(found.class_ids, minlength=256),
            areas=areas.astype(np.int64),
        )
        rows += count_rows(image.source, totals, classes)
    return rows


def _mask_rows(images: Iterable[PredictedImage]) -> Rows:
    return [
        {"image_id": image.source.image_id, **tile}
        for image in images
        for tile in encode_tiles(
            image.segmentation.semantic,
            image.segmentation.instances,
            len(image.segmentation.class_ids),
        )
    ]


def reject_rows(rejects: Iterable[Reject]) -> Rows:
    """Rows of the rejects table."""
    return [
        {
            "uri": reject.source.uri,
            "version": reject.source.version,
            "stage": reject.stage,
            "code": reject.code,
            "message": reject.message,
        }
        for reject in rejects
    ]


def image_row(
    source: SourceImage, shape: tuple[int, int, int], n_objects: int, provenance: Provenance
) -> dict[str, Any]:
    """A row of the images table."""
    return {
        "image_id": source.image_id,
        "uri": source.uri,
        "version": source.version,
        "height": shape[0],
        "width": shape[1],
        "channels": shape[2],
        "n_objects": n_objects,
        "model": provenance.model,
        "predicted_at": datetime.now(UTC),
    }


def _image_rows(images: Iterable[PredictedImage], provenance: Provenance) -> Rows:
    return [
        image_row(image.source, image.shape, len(image.segmentation.class_ids), provenance)
        for image in images
    ]


def with_provenance(rows: Rows, schema: pa.Schema, provenance: Provenance) -> pa.Table:
    """Rows as a table, with the columns that say where they come from."""
    common = {"shard": provenance.shard, "run": provenance.run}
    return pa.Table.from_pylist([common | row for row in rows], schema)
