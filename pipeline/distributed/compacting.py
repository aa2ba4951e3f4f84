"""Many small shards → few large ones, a partition at a time, in the order of their URIs.

Only names and sizes are known here; each rewrite reads its own shards. What a kill leaves is either
not committed, and removed by the next run, or committed, and swept by it.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.distributed.rewriting import rewrite_all, sweep_all
from pipeline.grouping import group_in_order
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.layout import by_shard
from pipeline.tables.lease import Lease
from pipeline.tables.orphans import remove_orphans
from pipeline.tables.rewrite import Rewrite, plan_rows
from pipeline.tables.runs import new_run
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.snapshot import Snapshot

_WAVE = 4096  # old shards that are rewritten before their files go

OnRewritten = Callable[[int], None]
"""Is told how many new shards are written."""


@dataclass(frozen=True)
class Compaction:
    """What there is to do."""

    works: tuple[Rewrite, ...]
    shards: int
    """That the dataset has now."""

    @property
    def old(self) -> int:
        """Shards that are put together."""
        return sum(len(work.old) for work in self.works)


def settle(dataset: OutputDataset, lease: Lease) -> None:
    """Close what was interrupted, so that no plan names shards that are about to go."""
    remove_orphans(dataset.uri, lease.check)
    for run in dataset.runs():
        if not run.finished:
            lease.check()
            run.close("a compaction")
    sweep_all(dataset, lease)


def plan_compaction(dataset: OutputDataset, target_bytes: int) -> Compaction:
    """Neighbours in the order of URIs, together until they have the size."""
    snapshot = dataset.snapshot()
    sizes = _sizes(snapshot)
    first = _first_uris(dataset, snapshot)
    partitions: defaultdict[str, list[str]] = defaultdict(list)
    for shard, partition in snapshot.shards.items():
        partitions[partition].append(shard)
    works: list[Rewrite] = []
    for partition, shards in sorted(partitions.items()):
        shards.sort(key=lambda shard: (first.get(shard, ""), shard))
        groups = group_in_order(shards, lambda shard: sizes.get(shard, 0), target_bytes)
        works += [Rewrite(tuple(group), partition) for group in groups if len(group) > 1]
    return Compaction(tuple(works), len(snapshot.shards))


def compact(
    dataset: OutputDataset, compaction: Compaction, lease: Lease, on_rewritten: OnRewritten
) -> None:
    """Write the new shards, and remove the old ones, so many at a time."""
    done = 0
    for wave in group_in_order(compaction.works, lambda work: len(work.old), _WAVE):
        snapshot = dataset.snapshot()
        run = new_run(
            dataset.uri,
            plan_rows(dataset.live(snapshot), wave),
            "",
            lease.check,
            kind="compact",
            results=dataset.spec.results,
        )
        for _ in rewrite_all(snapshot, wave, lease.hold):
            lease.check()
            done += 1
            on_rewritten(done)
        sweep_all(dataset, lease)
        run.finish({"run": run.id, "ended_by": "done", "shards": len(wave)})


def _sizes(snapshot: Snapshot) -> dict[str, int]:
    """Shard → bytes of all its files."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for table in SCHEMAS:
        root = storage.join(snapshot.uri, table)
        for file in storage.walk(root):
            for shard in by_shard([file.uri]):
                sizes[shard] += file.size
    return sizes


def _first_uris(dataset: OutputDataset, snapshot: Snapshot) -> dict[str, str]:
    first: dict[str, str] = {}
    for batch in dataset.live(snapshot):
        least = pa.table(batch).group_by("shard").aggregate([("uri", "min")])
        for shard, uri in zip(
            least["shard"].to_pylist(), least["uri_min"].to_pylist(), strict=True
        ):
            first[shard] = min(uri, first.get(shard, uri))
    return first
