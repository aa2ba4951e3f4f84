"""Images that are gone from their collection lose their rows, at once and for every reader.

An empty shard is committed whose record says that it replaces their rows: that makes the switch.
Then the rows go out of the files, and the empty shard goes. Killed in between, the next command
that writes finishes the sweep; which images were taken out on purpose is kept in the run's folder.
"""

from collections.abc import Iterator

import pyarrow as pa

from pipeline.config import fingerprint
from pipeline.distributed.rewriting import sweep_all
from pipeline.images.collection import Collection
from pipeline.plan import Gone, gone_images
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import Lease
from pipeline.tables.runs import GONE, new_run
from pipeline.tables.schema import PLAN, REPLACED, SCHEMAS
from pipeline.tables.shard import discard_shards, write_tables


def find_gone(dataset: OutputDataset, collection: Collection) -> Gone:
    """What the dataset holds of images that the collection no longer lists."""

    def planned() -> Iterator[pa.RecordBatch]:
        for run in dataset.runs():
            if run.spec.is_of(collection.uri):
                yield from run.plan()

    return gone_images(planned(), dataset.live(dataset.snapshot()), collection.batches())


def prune(dataset: OutputDataset, gone: Gone, collection: Collection, lease: Lease) -> None:
    """Take out the rows of images that are gone."""
    partitions = dataset.snapshot().shards
    old = gone.rows["shard"].to_pylist()
    here = [partitions.get(shard, "") for shard in old]
    run = new_run(
        dataset.uri,
        _as_plan(gone.rows, here),
        "",
        lease.check,
        folder=GONE,
        kind="prune",
        results=dataset.spec.results,
        input=collection.uri,
    )
    empty = {name: schema.empty_table() for name, schema in SCHEMAS.items()}
    shard, record = fingerprint(["prune", run.id]), gone.rows.select(REPLACED.names).cast(REPLACED)
    write_tables(dataset.uri, here[0], shard, empty, record, lease.check)
    sweep_all(dataset, lease)
    discard_shards(dataset.uri, {shard: here[0]})
    run.finish({"run": run.id, "ended_by": "done", "images": gone.number})


def _as_plan(rows: pa.Table, partitions: list[str]) -> list[pa.RecordBatch]:
    n = rows.num_rows
    columns = {
        "shard": rows["shard"],
        "partition": pa.array(partitions, pa.string()),
        "image_id": rows["image_id"],
        "uri": rows["uri"],
        "version": pa.nulls(n, pa.string()),
        "size": pa.array([-1] * n, pa.int64()),
        "old_shard": rows["shard"],
        "old_image": rows["image_id"],
    }
    found: list[pa.RecordBatch] = pa.table(columns, PLAN).sort_by("shard").to_batches()
    return found
