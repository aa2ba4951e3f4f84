"""Counts of an output dataset: sums over its counts table, batch by batch, and their error."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DatasetError
from pipeline.metrics.true_counts import Counted, Expected, expect
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

Row = Mapping[str, Any]

_SUMS = ("n_objects", "object_area", "pixels")
_PARTS = (*_SUMS, "squares", "images")
"""What is added up of the images that were counted alike."""


def count(dataset: OutputDataset, by: str) -> list[Row]:
    """Rows with objects, their area and pixels, of each class and, by `image`, of each image.

    Where the dataset knows how far its counts are to be trusted, also `expected`, how many objects
    there truly are, and `plus_minus`, how far that may be off (see `metrics.true_counts`); None for
    a class of which it is not known.

    Args:
        by: class, image or partition.

    Raises:
        DatasetError: by partition, of a dataset that has none.
    """
    if by == "partition" and not dataset.spec.partition_columns:
        raise DatasetError(
            f"{dataset.uri} has no partitions: jobs.predict makes them, with --partition"
        )
    keys = {
        "class": ["class_name"],
        "image": ["uri", "class_name"],
        "partition": [*dataset.spec.partition_columns, "class_name"],
    }[by]
    honest = bool(dataset.spec.counts)
    results_of = cache(dataset.results_of)

    def sums(now: Snapshot) -> pa.Table | None:
        origins = _Origins.of(now, results_of) if honest else _Origins({}, {})
        return _total(now, [*keys, "results"], origins)

    total = dataset.consistent(sums)
    if total is None:
        return []
    parts = total.sort_by([(key, "ascending") for key in keys]).to_pylist()
    groups = groupby(parts, key=lambda part: tuple(part[key] for key in keys))
    rows: list[Row] = []
    for values, members in groups:
        alike = list(members)
        row: dict[str, Any] = dict(zip(keys, values, strict=True))
        whole = {name: _sum(part[name] for part in alike) for name in (*_SUMS, "images")}
        row["n_objects"] = whole.pop("n_objects")
        if honest:
            expected = _expected(dataset, alike)
            row["expected"] = expected and round(expected.objects, 1)
            row["plus_minus"] = expected and round(expected.error, 1)
        rows.append(row | whole)
    return rows


def _expected(dataset: OutputDataset, parts: list[Row]) -> Expected | None:
    """Of one class; None unless it is known of all that has counted it."""
    ids = {spec.name: spec.id for spec in dataset.classes if spec.kind == "thing"}
    known = []
    for part in parts:
        told = dataset.spec.counts.get(part["results"], {})
        calibration = told.get(ids.get(part["class_name"], -1))
        if calibration is None:
            return None
        counted = Counted(part["images"], part["n_objects"], part["squares"])
        known.append((counted, calibration))
    return expect(known)


def _sum(values: Iterable[int | None]) -> int | None:
    """None for classes that are not counted."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _total(snapshot: Snapshot, keys: list[str], origins: "_Origins") -> pa.Table | None:
    columns = [key for key in keys if key != "results"]
    # Summed a batch at a time: what is kept grows with the groups, not with the images.
    total: pa.Table | None = None
    for batch in snapshot.scan("counts", [*columns, *_SUMS, *origins.columns]):
        counts = batch["n_objects"]
        whole = (
            pa.table(batch)
            .append_column("results", origins.column(batch))
            .append_column("squares", pc.multiply(counts, counts))
            .append_column("images", pa.array([1] * len(batch)))
        )
        part = _summed(whole, keys)
        total = part if total is None else _summed(pa.concat_tables([total, part]), keys)
    return total


def _summed(table: pa.Table, keys: list[str]) -> pa.Table:
    sums = table.group_by(keys).aggregate([(name, "sum") for name in _PARTS])
    return sums.rename_columns({f"{name}_sum": name for name in _PARTS})


@dataclass(frozen=True)
class _Origins:
    """`DatasetSpec.results` of what has counted: the model, with its settings."""

    of_shards: Mapping[str, str]
    of_images: Mapping[str, str]
    """Of the shards that compaction has made of images that were counted differently."""

    @classmethod
    def of(cls, snapshot: Snapshot, results_of: Callable[[str], str]) -> "_Origins":
        shards: dict[str, set[str]] = {}
        for batch in snapshot.scan("images", ["shard", "run"]):
            pairs = pa.table(batch).group_by(["shard", "run"]).aggregate([])
            for shard, run in zip(*pairs.to_pydict().values(), strict=True):
                shards.setdefault(shard, set()).add(results_of(run))
        mixed = [shard for shard, results in shards.items() if len(results) > 1]
        images: dict[str, str] = {}
        for batch in snapshot.only(mixed).scan("images", ["image_id", "run"]):
            ids, runs = pa.table(batch).to_pydict().values()
            images |= zip(ids, map(results_of, runs), strict=True)
        single = {shard: min(results) for shard, results in shards.items() if len(results) == 1}
        return cls(single, images)

    @property
    def columns(self) -> list[str]:
        """Of the counts table, that tell a row's origin."""
        return ["shard"] * bool(self.of_shards) + ["image_id"] * bool(self.of_images)

    def column(self, batch: pa.RecordBatch) -> pa.Array:
        """The origin of each row; empty where nobody asks."""
        names = pa.array([""] * len(batch), pa.string())
        for name, origins in (("image_id", self.of_images), ("shard", self.of_shards)):
            if origins:
                codes = pc.dictionary_encode(batch[name])
                known = [origins.get(one) for one in codes.dictionary.to_pylist()]
                names = pc.coalesce(pa.array(known, pa.string()).take(codes.indices), names)
        return names
