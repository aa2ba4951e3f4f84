"""Which images are done, told from the plans rather than from the tables.

A shard is committed whole, and holds a row or a reject of each image that was planned for it. So
the rows of all plans whose shard counts say what is done, at the price of a listing and of a file
or two a run, however many shards there are. A shard may be in several plans: when what an
interrupted run has left is planned anew, or when images that were taken out have come back. The
newest tells, since what it says of a shard was written last.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.images.collection import image_identity
from pipeline.tables.runs import Run
from pipeline.tables.schema import LIVE
from pipeline.tables.snapshot import Snapshot


def live_images(snapshot: Snapshot, runs: Sequence[Run]) -> Iterator[pa.RecordBatch]:
    """A row an image that has its result or its reject, of the LIVE schema.

    Args:
        snapshot: what counts.
        runs: every run, oldest first.
    """
    replaced = pa.array(snapshot.replaced.keys(), pa.string())
    unplanned = set(snapshot.shards)
    for run in reversed(runs):
        if not unplanned:
            return
        wanted, told = pa.array(unplanned, pa.string()), set[str]()
        for batch in run.plan():
            found = batch.filter(pc.is_in(batch["shard"], wanted)).select(LIVE.names)
            if found.num_rows == 0:
                continue
            told.update(pc.unique(found["shard"]).to_pylist())
            yield from _without_replaced(found, snapshot, replaced)
        unplanned -= told
    yield from _from_tables(snapshot, unplanned)


def _without_replaced(
    batch: pa.RecordBatch, snapshot: Snapshot, replaced: pa.Array
) -> Iterator[pa.RecordBatch]:
    touched = pc.is_in(batch["shard"], replaced)
    yield batch.filter(pc.invert(touched))
    rest = batch.filter(touched)
    for shard in pc.unique(rest["shard"]).to_pylist():
        rows = rest.filter(pc.equal(rest["shard"], shard))
        gone = pa.array(sorted(snapshot.replaced[shard].images), pa.string())
        yield rows.filter(pc.invert(pc.is_in(rows["image_id"], gone)))


def _from_tables(snapshot: Snapshot, shards: set[str]) -> Iterator[pa.RecordBatch]:
    """For shards that no plan knows, as when somebody has removed `_runs`."""
    part = snapshot.only(shards)
    for table in ("images", "rejects"):
        for batch in part.scan(table, ["uri", "version", "shard"]):
            ids = [
                image_identity(uri, version)
                for uri, version in zip(
                    batch["uri"].to_pylist(), batch["version"].to_pylist(), strict=True
                )
            ]
            columns = [batch["uri"], batch["version"], pa.array(ids), batch["shard"]]
            yield pa.record_batch(columns, LIVE)
