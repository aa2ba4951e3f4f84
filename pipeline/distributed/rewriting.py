"""Rewrites as a Ray Data graph, since there can be as many as shards."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipeline.distributed.listening import listening
from pipeline.distributed.session import data_context
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import Hold, Lease, check_held
from pipeline.tables.rewrite import Rewrite, plan_rows, rewrite, stale_works, sweep
from pipeline.tables.runs import new_run
from pipeline.tables.shard import discard_shards
from pipeline.tables.snapshot import Snapshot

_CPUS = 0.5


def _go_on() -> None:
    """Nobody asks to stop."""


@dataclass(frozen=True)
class _Task:
    work: Rewrite
    part: Snapshot
    """With no more than the shards that this rewrite reads."""


def rewrite_all(
    snapshot: Snapshot, works: Sequence[Rewrite], lease: Hold
) -> Generator[int, None, None]:
    """Write and commit every new shard; yields the bytes written of each."""
    data_context()
    tasks = [_Task(work, snapshot.only(work.old)) for work in works]
    rows = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        partial(_rewrite, lease=lease),
        num_cpus=_CPUS,
        max_retries=2,
    )
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from cast(pa.Table, batch)["bytes"].to_pylist()


def _rewrite(row: dict[str, Any], lease: Hold) -> dict[str, int]:
    task: _Task = row["item"]
    return {"bytes": rewrite(task.part, task.work, partial(check_held, lease))}


def sweep_all(dataset: OutputDataset, lease: Lease, check: Callable[[], None] = _go_on) -> int:
    """Take every row that is replaced out of the files; returns how many shards that changed.

    From here on a plain glob sees what the library's reader sees.

    Args:
        check: called again and again; raises to end it where it is, which the next sweep goes on
            with.
    """
    snapshot = dataset.snapshot()
    stale = stale_works(snapshot)
    if stale:
        rows = list(plan_rows(dataset.live(snapshot), stale))
        kept = {shard for batch in rows for shard in pc.unique(batch["shard"]).to_pylist()}
        works = [work for work in stale if work.shard in kept]
        if works:
            _rewrite_stale(dataset, snapshot, works, rows, lease, check)
        # Where every row is replaced there is nothing to write anew, and no empty file is left.
        lease.check()
        gone = [work for work in stale if work.shard not in kept]
        discard_shards(dataset.uri, {old: work.partition for work in gone for old in work.old})
        snapshot = dataset.snapshot()
    sweep(snapshot, lease.check)
    return len(stale) + len(snapshot.leftover)


def _rewrite_stale(
    dataset: OutputDataset,
    snapshot: Snapshot,
    works: Sequence[Rewrite],
    rows: Iterable[pa.RecordBatch],
    lease: Lease,
    check: Callable[[], None],
) -> None:
    run = new_run(dataset.uri, rows, "", lease.check, kind="sweep", results=dataset.spec.results)
    for _ in listening(rewrite_all(snapshot, works, lease.hold), check):
        lease.check()
    run.finish({"run": run.id, "ended_by": "done", "shards": len(works)})
