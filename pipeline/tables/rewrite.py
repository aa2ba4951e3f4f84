"""Rows that count, moved into new shards: what sweeping, compacting and mending are made of.

Nothing is changed in place. A new shard holds copies of the rows that count of one or more old
ones, in the order of their URIs; its record says that it replaces the old ones whole; its commit
makes the switch; then the old files go. A reader sees either side of the switch, and whoever is
killed between two steps leaves what the next `sweep` finishes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import fingerprint
from pipeline.tables.layout import record_file
from pipeline.tables.replacing import read_record, record_of_shards
from pipeline.tables.schema import PLAN, SCHEMAS
from pipeline.tables.shard import discard_shards, write_tables
from pipeline.tables.snapshot import Snapshot

_KEYS = {
    "images": ["uri"],
    "counts": ["uri", "class_id"],
    "objects": ["uri", "object_id"],
    "masks": ["uri", "y0", "x0"],
    "rejects": ["uri"],
}
"""Table → the order of its rows. Objects and masks borrow the URI from the images table."""


@dataclass(frozen=True)
class Rewrite:
    """Shards of one partition whose rows that count go into one new shard."""

    old: tuple[str, ...]
    partition: str
    gone: frozenset[str] = frozenset()
    """Image ids of the rows in them that do not count, and stay out."""

    @property
    def shard(self) -> str:
        """The new one; told from what it holds, so a second attempt writes the same files.

        The old ones alone would not do: when images come back that were taken out, so does the
        shard that they were in, and from it others may be taken out the next time.
        """
        return fingerprint(["rewritten", sorted(self.old), "without", sorted(self.gone)])


def rewrite(snapshot: Snapshot, work: Rewrite, before_commit: Callable[[], None]) -> int:
    """Write and commit the new shard; the old files stay. Returns the bytes written."""
    part = snapshot.only(work.old)
    images = _read(part, "images").select(["image_id", "uri"])
    tables = {name: _sorted(name, _read(part, name), images, work.shard) for name in SCHEMAS}
    return write_tables(
        snapshot.uri,
        work.partition,
        work.shard,
        tables,
        record_of_shards(sorted(work.old)),
        before_commit,
    )


def plan_rows(live: Iterable[pa.RecordBatch], works: Sequence[Rewrite]) -> Iterable[pa.RecordBatch]:
    """The plan of some rewrites: which images their new shards will hold."""
    target = {old: work for work in works for old in work.old}
    chosen = pa.array(target, pa.string())
    waiting: dict[str, list[pa.RecordBatch]] = {work.shard: [] for work in works}
    for batch in live:
        rows = batch.filter(pc.is_in(batch["shard"], chosen))
        for old in pc.unique(rows["shard"]).to_pylist():
            one = rows.filter(pc.equal(rows["shard"], old))
            waiting[target[old].shard].append(_planned(one, target[old]))
    for batches in waiting.values():
        yield from batches


def sweep(snapshot: Snapshot, before_removal: Callable[[], None]) -> None:
    """Remove the files of shards that are replaced whole, then the records that are of no more use.

    A shard that is replaced must go before the one that replaces it can be replaced in its turn:
    without that one's record it would count again. So whoever rewrites sweeps first.
    """
    before_removal()
    discard_shards(snapshot.uri, snapshot.leftover)
    storage.remove_many(
        record_file(snapshot.uri, shard)
        for shard in snapshot.records
        if shard not in snapshot.shards or not speaks_of(snapshot, shard)
    )


def stale_works(snapshot: Snapshot) -> list[Rewrite]:
    """The rewrites that take replaced rows out of shards that keep others."""
    return [
        Rewrite((shard,), snapshot.shards[shard], gone.images)
        for shard, gone in sorted(snapshot.replaced.items())
        if shard in snapshot.shards
    ]


def speaks_of(snapshot: Snapshot, shard: str) -> bool:
    """Whether a record names a shard that counts."""
    named = pc.unique(read_record(snapshot.uri, shard)["shard"]).to_pylist()
    return not snapshot.shards.keys().isdisjoint(named)


def _read(part: Snapshot, table: str) -> pa.Table:
    names = SCHEMAS[table].names
    return pa.Table.from_batches(part.scan(table, names), SCHEMAS[table])


def _sorted(name: str, table: pa.Table, images: pa.Table, shard: str) -> pa.Table:
    borrowed = "uri" not in table.column_names
    if borrowed:
        places = pc.index_in(table["image_id"], images["image_id"])
        table = table.append_column("uri", images["uri"].take(places))
    table = table.sort_by([(key, "ascending") for key in _KEYS[name]])
    table = table.drop_columns(["uri"]) if borrowed else table
    column = pa.array([shard] * table.num_rows, pa.string())
    place = table.column_names.index("shard")
    return table.set_column(place, table.schema.field(place), column)


def _planned(batch: pa.RecordBatch, work: Rewrite) -> pa.RecordBatch:
    n = batch.num_rows
    columns: Mapping[str, pa.Array] = {
        "shard": pa.array([work.shard] * n, pa.string()),
        "partition": pa.array([work.partition] * n, pa.string()),
        "image_id": batch["image_id"],
        "uri": batch["uri"],
        "version": batch["version"],
        "size": pa.array([-1] * n, pa.int64()),
        "old_shard": pa.nulls(n, pa.string()),
        "old_image": pa.nulls(n, pa.string()),
    }
    return pa.record_batch([columns[name] for name in PLAN.names], PLAN)
