"""What an interrupted plan still has to do."""

import contextlib
from collections.abc import Container, Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipeline.plan.database import temporary_folder
from pipeline.plan.plan import Plan, Spool
from pipeline.tables.schema import PLAN


@contextlib.contextmanager
def remaining(plan_batches: Iterable[pa.RecordBatch], committed: Container[str]) -> Iterator[Plan]:
    """The plan without the shards that are committed; the others stay as they are.

    Nothing else has to be looked at: while a plan waits to be gone on with, nobody but its own run
    writes to the output, since whoever else takes the lease closes it.

    Args:
        plan_batches: rows of PLAN, those of a shard consecutive; walked through once.
        committed: ids of shards.

    Raises:
        StorageError: there is no room for the temporary files.
    """
    listed = 0
    with temporary_folder() as folder:
        with Spool(f"{folder}/plan.arrow") as plan:
            for batch in plan_batches:
                listed += batch.num_rows
                plan.write(_uncommitted(batch.select(PLAN.names).cast(PLAN), committed))
        yield Plan(
            listed=listed,
            repeated=0,
            images=plan.images,
            bytes=plan.bytes,
            shards=plan.shards,
            changed=plan.changed,
            spool=plan,
        )


def _uncommitted(batch: pa.RecordBatch, committed: Container[str]) -> pa.RecordBatch:
    shards = batch["shard"].dictionary_encode()
    waits = np.array([name not in committed for name in shards.dictionary.to_pylist()], bool)
    if waits.all():
        return batch
    return batch.filter(pa.array(waits[shards.indices.to_numpy()]))
