"""The two Ray Data graphs over parts of large images: read → network → keep, and label."""

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.distributed.opening import Group
from pipeline.distributed.part_stages import KeepPart, LabelPart, PredictPart, read_part
from pipeline.distributed.parts import Part, part_of, to_table
from pipeline.distributed.predict import DEATHS, placement, set_context
from pipeline.distributed.session import Resources
from pipeline.distributed.stages import GraphSettings


def predict_parts(
    group: Group, parts: Sequence[Part], settings: GraphSettings, resources: Resources
) -> Generator[Part, None, None]:
    """Yields each part when its maps are kept, or when it has failed."""
    plan = placement(settings.predict, resources, len(parts))
    set_context(settings.predict)
    rows = (
        ray.data.from_arrow([to_table(part) for part in parts])
        .map_batches(
            partial(read_part, settings=settings, decoded=_decoded(group)),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=plan.read_cpus,
            max_retries=DEATHS,
        )
        .map_batches(
            PredictPart,
            fn_constructor_args=(settings, plan.threads),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=plan.workers),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
            max_task_retries=DEATHS,
        )
        .map_batches(
            KeepPart,
            fn_constructor_args=(settings,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=plan.committers),
            num_cpus=plan.commit_cpus,
            max_task_retries=DEATHS,
        )
    )
    return _parts_of(rows)


def label_parts(
    group: Group, parts: Sequence[Part], settings: GraphSettings, resources: Resources
) -> Generator[Part, None, None]:
    """Yields each part when its objects are kept, or when it has failed."""
    set_context(settings.predict)
    workers = max(1, min(int(resources.cpus), len(parts)))
    rows = ray.data.from_arrow([to_table(part) for part in parts]).map_batches(
        LabelPart,
        fn_constructor_args=(settings, _decoded(group)),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=workers),
        num_cpus=min(1.0, resources.cpus / 2),
        max_task_retries=DEATHS,
    )
    return _parts_of(rows)


def _decoded(group: Group) -> dict[str, Any]:
    return {
        image.source.image_id: image.pixels for image in group.images if image.pixels is not None
    }


def _parts_of(rows: "ray.data.Dataset") -> Generator[Part, None, None]:
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        table = cast(pa.Table, batch)
        for row in range(table.num_rows):
            yield part_of(table.slice(row, 1))
