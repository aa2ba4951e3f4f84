"""Prediction as one streaming Ray Data graph: read → network → decode and commit.

Each block is one whole shard, so reads, network and writes of different shards overlap, with
back-pressure between them. The driver sees one small row a shard.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, ExecutionOptions, ExecutionResources

from pipeline.config import PredictSettings
from pipeline.distributed.blocks import Block, to_table
from pipeline.distributed.session import Resources, data_context
from pipeline.distributed.stages import (
    CommitShard,
    GraphSettings,
    PredictShard,
    ShardResult,
    read_shard,
)
from pipeline.distributed.timing import StageSeconds
from pipeline.records import Shard

DEATHS = 1
"""How often a block whose process has died is tried again, before the driver looks into it."""


def stream_shards(
    shards: Sequence[Shard],
    poison: Mapping[str, tuple[str, str]],
    settings: GraphSettings,
    resources: Resources,
) -> Iterator[ShardResult]:
    """Compute and commit shards; yields each when it is committed or has failed.

    A shard of which nothing is yielded was worked on by a process that died.

    Args:
        poison: image id → code and message of the images that are not to be touched.
    """
    plan = placement(settings.predict, resources, len(shards))
    set_context(settings.predict)
    rows = three_stages(
        [to_table(Block.planned(shard, poison)) for shard in shards],
        partial(read_shard, settings=settings.predict),
        PredictShard,
        CommitShard,
        settings,
        plan,
    )
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in cast(pa.Table, batch).to_pylist():
            yield ShardResult(**row | {"seconds": StageSeconds(**row["seconds"])})


def three_stages(
    blocks: Sequence[pa.Table],
    read: Callable[[pa.Table], pa.Table],
    predictor: type[Any],
    committer: type[Any],
    settings: GraphSettings,
    plan: "Placement",
) -> "ray.data.Dataset":
    """Read → network → commit over blocks that stay whole; the two last load once what they need.

    Args:
        predictor: made of `settings` and its number of threads.
        committer: made of `settings`.
    """
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            read,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=plan.read_cpus,
            max_retries=DEATHS,
        )
        .map_batches(
            predictor,
            fn_constructor_args=(settings, plan.threads),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=plan.workers),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
            max_task_retries=DEATHS,
        )
        .map_batches(
            committer,
            fn_constructor_args=(settings,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=plan.committers),
            num_cpus=plan.commit_cpus,
            max_task_retries=DEATHS,
        )
    )


@dataclass(frozen=True)
class Placement:
    """How the stages share the cluster."""

    workers: int
    threads: int
    """Of a predicting process."""
    actor_cpus: float
    actor_gpus: float
    read_cpus: float
    committers: int
    commit_cpus: float


def placement(settings: PredictSettings, resources: Resources, blocks: int) -> Placement:
    """How the stages share the cluster, for so many blocks."""
    if resources.gpus:
        workers = min(settings.workers or resources.gpus, blocks)
        spare = max(1, int(resources.cpus) - workers)
        return Placement(workers, 1, 1, 1, 0.5, max(1, spare // 2), 1)
    # The network is nearly all of the work, and a predicting process computes on whole cores.
    # Reading and committing share the cores with it, so of the CPUs that Ray counts half go to
    # the network and a quarter to each of them. (Requests that differ also keep Ray from running
    # two stages in one process, where they could not overlap.)
    workers = settings.workers or max(1, int(resources.cpus))
    threads = max(1, int(resources.cpus) // workers)
    quarter = resources.cpus / 4
    return Placement(
        workers=min(workers, blocks),  # threads stay: they may change the last bit of a sum
        threads=threads,
        actor_cpus=_share(quarter * 2, workers),
        actor_gpus=0,
        read_cpus=min(0.4, quarter),
        committers=max(1, int(quarter / 0.3)),
        commit_cpus=min(0.3, quarter),
    )


def _share(cpus: float, processes: int) -> float:
    """CPUs to ask Ray for, for each of some processes; Ray counts in steps of 0.0001."""
    return min(1.0, int(cpus / processes * 10_000) / 10_000)


def set_context(settings: PredictSettings) -> None:
    """Ray Data's settings for blocks that are units of work, whose loss the driver judges."""
    context = data_context()
    context.target_max_block_size = None  # blocks stay whole
    context.max_consecutive_actor_init_deaths = 3
    # A dead process costs its block's turn, not the run. Nothing is lost: the driver knows what
    # it asked for.
    context.max_errored_blocks = -1
    # A pool may wait for ever for an actor that died (ray#62746).
    context.execution_no_progress_timeout_s = settings.stall_seconds
    context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources(object_store_memory=settings.memory_in_flight),
        preserve_order=False,
    )
