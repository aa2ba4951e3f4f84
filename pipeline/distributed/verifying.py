"""The fsck of an output dataset: every shard held against its plan, and the whole against law 1."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipeline.distributed.session import data_context
from pipeline.plan import missing_images, repeated_uris
from pipeline.records import Shard
from pipeline.tables.check import Finding, check_shard
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.layout import record_file, shard_file
from pipeline.tables.orphans import foreign, orphans, unfinished
from pipeline.tables.rewrite import speaks_of
from pipeline.tables.runs import Run, shards_of
from pipeline.tables.snapshot import Snapshot

_WAVE = 4096  # shards of one execution: bounds what the driver and Ray know at a time
_CPUS = 0.5

OnChecked = Callable[[int, int], None]
"""Is told of shards checked, and how many there are."""


def verify(
    dataset: OutputDataset, on_checked: OnChecked, *, files: bool = True
) -> Iterator[Finding]:
    """Everything that is not as it should be; nothing where all is well.

    Args:
        files: also those that should not be there. While somebody writes, his look the same.

    Raises:
        ChangedError: a run replaced files meanwhile.
        StorageError: the store did not answer, or not us: nobody knows what its files hold.
    """
    snapshot = dataset.snapshot()
    runs = dataset.runs()
    for file in foreign(snapshot.uri):
        yield Finding(
            "foreign", file, "is no shard's, but a plain glob reads it: move it elsewhere"
        )
    if files:
        yield from check_files(snapshot)
    unplanned = set[str]()

    def shards() -> Iterator[Shard]:
        for shard in planned_shards(snapshot, runs):
            if not shard.images:
                unplanned.add(shard.id)
            yield shard

    overlapping = dataset.spec.overlapping
    inside = list(check_shards(snapshot, shards(), on_checked, overlapping=overlapping))
    # Of a shard that no plan knows its own files tell what it holds, if they can be read.
    unreadable = {finding.shard for finding in inside if finding.kind == "unreadable"}
    told = snapshot.only(snapshot.shards.keys() - (unplanned & unreadable))
    yield from _check_images(dataset, told, runs)
    yield from inside


def check_files(snapshot: Snapshot) -> Iterator[Finding]:
    """Files that should not be there."""
    for file in orphans(snapshot.uri):
        yield Finding("orphan", file, "is of a shard that was never committed")
    for file in unfinished(snapshot.uri):
        yield Finding("orphan", file, "was left by a write that never ended")
    for shard, partition in snapshot.leftover.items():
        file = shard_file(snapshot.uri, "images", partition, shard)
        yield Finding("unswept", file, "is replaced by another shard, and still there")
    for shard in snapshot.replaced:
        if shard in snapshot.shards:
            file = shard_file(snapshot.uri, "images", snapshot.shards[shard], shard)
            yield Finding("unswept", file, "holds rows that another shard replaces")
    for shard in snapshot.records:
        file = record_file(snapshot.uri, shard)
        if shard not in snapshot.shards:
            yield Finding("orphan", file, "is of no committed shard")
        elif not (snapshot.leftover or speaks_of(snapshot, shard)):
            yield Finding("unswept", file, "names no shard that is still there")


def _check_images(
    dataset: OutputDataset, snapshot: Snapshot, runs: Sequence[Run]
) -> Iterator[Finding]:
    repeated = dict(repeated_uris(dataset.live(snapshot)))
    holders = _holders(dataset, snapshot, runs, repeated)
    for uri, n in repeated.items():
        # One of the shards keeps it. Where the rows don't say which is which, their shard tells.
        for shard in holders[uri][1:] or [""]:
            yield Finding("twice", uri, f"counts {n} times, in different shards", shard)
    for batch in missing(dataset, snapshot, runs):
        for uri in batch["uri"].to_pylist():
            yield Finding("missing", uri, "was planned and done, and is in no table")


def _holders(
    dataset: OutputDataset, snapshot: Snapshot, runs: Sequence[Run], uris: Collection[str]
) -> Mapping[str, list[str]]:
    """URI → the shards in which it counts, those that a plan knows before the others."""
    found: dict[str, set[str]] = {uri: set() for uri in uris}
    if not found:
        return {}
    chosen = pa.array(found, pa.string())
    for batch in dataset.live(snapshot):
        rows = batch.filter(pc.is_in(batch["uri"], chosen))
        for uri, shard in zip(rows["uri"].to_pylist(), rows["shard"].to_pylist(), strict=True):
            found[uri].add(shard)
    planned = {shard.id for shard in planned_shards(snapshot, runs) if shard.images}
    return {
        uri: sorted(shards, key=lambda shard: (shard not in planned, shard))
        for uri, shards in found.items()
    }


def missing(
    dataset: OutputDataset,
    snapshot: Snapshot,
    runs: Iterable[Run],
    discarded: Collection[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Planned images whose URI has neither a row nor a reject, of the PLAN schema.

    Planned by a run that was completed, or for a shard that was discarded; what an interrupted run
    has not done is not missing, nor what was taken out since because it is gone.
    """
    of_discarded = pa.array(sorted(discarded), pa.string())

    def plans() -> Iterator[pa.RecordBatch]:
        for run in runs:
            completed = run.completed
            for batch in run.plan():
                yield batch if completed else batch.filter(pc.is_in(batch["shard"], of_discarded))
            for batch in run.gone():
                none = pa.nulls(batch.num_rows, pa.string())
                yield batch.set_column(batch.schema.get_field_index("shard"), "shard", none)

    yield from missing_images(plans(), dataset.live(snapshot))


def planned_shards(snapshot: Snapshot, runs: Sequence[Run]) -> Iterator[Shard]:
    """The committed shards with what their plans name; without images where no plan knows them.

    Args:
        snapshot: what counts.
        runs: every run, oldest first; of several plans of a shard the newest tells, as in `live`.
    """
    committed = pa.array(snapshot.shards.keys(), pa.string())
    unplanned = set(snapshot.shards)
    for run in reversed(runs):
        batches = (b.filter(pc.is_in(b["shard"], committed)) for b in run.plan())
        for shard in shards_of(batches):
            if shard.id in unplanned:
                unplanned.discard(shard.id)
                yield shard
    for shard_id in sorted(unplanned):
        yield Shard(shard_id, (), snapshot.shards[shard_id])


def check_shards(
    snapshot: Snapshot,
    shards: Iterable[Shard],
    on_checked: OnChecked,
    *,
    overlapping: bool = False,
) -> Iterator[Finding]:
    """What is wrong inside the shards, a Ray Data graph over all of them."""
    waiting, checked = iter(shards), 0
    while wave := list(islice(waiting, _WAVE)):
        data_context()
        items = [{"part": snapshot.only([shard.id]), "shard": shard} for shard in wave]
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map(
            partial(_check, overlapping=overlapping), num_cpus=_CPUS, max_retries=2
        )
        for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast(pa.Table, batch).to_pylist():
                checked += 1
                on_checked(checked, len(snapshot.shards))
                yield from (Finding(**finding) for finding in row["findings"])


def _check(row: dict[str, Any], overlapping: bool) -> dict[str, Any]:
    found = check_shard(row["part"], row["shard"], overlapping=overlapping)
    return {"shard": row["shard"].id, "findings": [asdict(finding) for finding in found]}
