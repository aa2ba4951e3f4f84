"""Counts of an output dataset: sums over its counts table, batch by batch."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

_SUMS = ("n_objects", "object_area", "pixels")


def count(dataset: OutputDataset, by: str) -> list[Mapping[str, Any]]:
    """Rows with objects, their area and pixels, of each class and, by `image`, of each image.

    Args:
        by: class, image or partition; a dataset without partition columns has one partition.
    """
    keys = {
        "class": ["class_name"],
        "image": ["uri", "class_name"],
        "partition": [*dataset.spec.partition_columns, "class_name"],
    }[by]
    total = dataset.consistent(lambda now: _total(now, keys))
    if total is None:
        return []
    rows: list[Mapping[str, Any]] = total.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return rows


def _total(snapshot: Snapshot, keys: list[str]) -> pa.Table | None:
    # Summed a batch at a time: what is kept grows with the groups, not with the images.
    total: pa.Table | None = None
    for batch in snapshot.scan("counts", [*keys, *_SUMS]):
        part = _summed(pa.table(batch).append_column("images", pa.array([1] * len(batch))), keys)
        total = part if total is None else _summed(pa.concat_tables([total, part]), keys)
    return total


def _summed(table: pa.Table, keys: list[str]) -> pa.Table:
    names = [*_SUMS, "images"]
    sums = table.group_by(keys).aggregate([(name, "sum") for name in names])
    return sums.rename_columns({f"{name}_sum": name for name in names})
