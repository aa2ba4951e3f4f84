"""What `jobs.verify --repair` does: remove what counts for nothing, plan again what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.config import PredictSettings
from pipeline.distributed.rewriting import sweep_all
from pipeline.distributed.verifying import missing
from pipeline.images.partitions import partition_values
from pipeline.plan import plan_work
from pipeline.tables.check import Finding
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import Lease
from pipeline.tables.orphans import remove_orphans
from pipeline.tables.runs import new_run
from pipeline.tables.shard import discard_shards


@dataclass(frozen=True)
class Repaired:
    """What was done."""

    orphans: int
    """Files removed."""
    discarded: int
    """Shards whose rows could not be relied on."""
    swept: int
    """Shards that kept replaced rows, or were replaced."""
    planned: int
    """Images that are computed again by the next prediction."""


def repair(dataset: OutputDataset, findings: Iterable[Finding], lease: Lease) -> Repaired:
    """Mend what was found. Killed in between, it can be called again."""
    damaged = {finding.shard for finding in findings if finding.shard}
    # Before the closing, since nobody looks any more for what a closed run has left.
    orphans = remove_orphans(dataset.uri, lease.check)
    for run in dataset.runs():
        if not run.finished:
            lease.check()
            run.close("a repair")
    snapshot = dataset.snapshot()
    # Their images are missing from then on, and so the plan below holds them.
    known = damaged & snapshot.shards.keys()
    lease.check()  # the shards of these names may be another run's by now, and good
    discard_shards(dataset.uri, {shard: snapshot.shards[shard] for shard in known})
    swept = sweep_all(dataset, lease)
    return Repaired(orphans, len(damaged), swept, _plan_again(dataset, damaged, lease))


def _plan_again(dataset: OutputDataset, damaged: set[str], lease: Lease) -> int:
    snapshot = dataset.snapshot()
    columns = dataset.spec.partition_columns
    found = missing(dataset, snapshot, dataset.runs(), damaged)
    listing = (_listing(batch, columns) for batch in found)
    defaults = PredictSettings.model_fields
    with plan_work(
        listing,
        iter(()),
        partition_columns=columns,
        images_per_shard=defaults["images_per_shard"].default,
        bytes_per_shard=defaults["bytes_per_shard"].default,
        results=dataset.spec.results,
    ) as plan:
        if plan.images:
            new_run(
                dataset.uri,
                plan.batches(),
                "",
                lease.check,
                kind="repair",
                results=dataset.spec.results,
            )
        return plan.images


def _listing(batch: pa.RecordBatch, columns: tuple[str, ...]) -> pa.RecordBatch:
    """Rows of a plan as a collection lists them."""
    values = [partition_values(folder) for folder in batch["partition"].to_pylist()]
    parts = [pa.array([row[name] for row in values], pa.string()) for name in columns]
    names = ["image_id", "uri", "version", "size", *columns]
    arrays = [*(batch[name] for name in names[:4]), *parts]
    return pa.record_batch(arrays, names=names)
