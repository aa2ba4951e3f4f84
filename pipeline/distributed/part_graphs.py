"""The two Ray Data graphs over parts of large images: read → network → keep, and label.

And the same for one part in a process of its own, to find out whether it is the part that ends it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.distributed.failures import Failure
from pipeline.distributed.opening import Group
from pipeline.distributed.part_stages import KeepPart, LabelPart, PredictPart, read_part
from pipeline.distributed.parts import Part, part_of, to_table
from pipeline.distributed.poison import watched
from pipeline.distributed.predict import DEATHS, placement, set_context, three_stages
from pipeline.distributed.session import Resources
from pipeline.distributed.stages import GraphSettings
from pipeline.errors import TesseraError


def predict_parts(
    group: Group, parts: Sequence[Part], settings: GraphSettings, resources: Resources
) -> Generator[Part, None, None]:
    """Yields each part when its maps are kept, or when it has failed."""
    plan = placement(settings.predict, resources, len(parts))
    set_context(settings.predict)
    rows = three_stages(
        [to_table(part) for part in parts],
        partial(read_part, settings=settings, decoded=_decoded(group)),
        PredictPart,
        KeepPart,
        settings,
        plan,
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


def find_fault(
    group: Group, part: Part, step: str, settings: GraphSettings, check: Callable[[], None]
) -> tuple[str, str] | None:
    """Code and message of what a part does to a process of its own; None where that is nothing.

    Args:
        step: `scales` or `seams`, what is to be made of it.
        check: called while it is waited for; raises to end the work.
    """
    steps: Any = _work_on.options(num_returns="streaming").remote(
        to_table(part), step, settings, _decoded(group)
    )
    return watched(steps, settings.predict.stall_seconds, check)


@ray.remote(max_retries=0, max_calls=1)
def _work_on(
    table: pa.Table, step: str, settings: GraphSettings, decoded: Mapping[str, Any]
) -> Iterator[bool | Failure | None]:
    """All that a step does with a part: whether it is ready, then what went wrong."""
    stages: list[Callable[[pa.Table], pa.Table]]
    try:
        if step == "scales":
            read = partial(read_part, settings=settings, decoded=decoded)
            stages = [read, PredictPart(settings, threads=1), KeepPart(settings)]
        else:
            stages = [LabelPart(settings, decoded)]
    except TesseraError:  # such as a bundle that can't be read at the moment
        yield False
        return
    yield True
    for stage in stages:
        table = stage(table)
    yield part_of(table).failure


def _decoded(group: Group) -> dict[str, Any]:
    return {
        image.source.image_id: image.pixels for image in group.images if image.pixels is not None
    }


def _parts_of(rows: "ray.data.Dataset") -> Generator[Part, None, None]:
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        table = cast(pa.Table, batch)
        for row in range(table.num_rows):
            yield part_of(table.slice(row, 1))
