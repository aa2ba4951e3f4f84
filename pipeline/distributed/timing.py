"""How long the stages of a prediction work: seconds of their processes, not of the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Stage = Literal["read", "predict", "commit"]


@dataclass(frozen=True)
class StageSeconds:
    """Of all processes of a stage together."""

    read: float = 0.0
    predict: float = 0.0
    commit: float = 0.0
    """Decoding, measuring and writing."""

    def __add__(self, other: "StageSeconds") -> "StageSeconds":
        return StageSeconds(
            self.read + other.read, self.predict + other.predict, self.commit + other.commit
        )

    def __truediv__(self, parts: int) -> "StageSeconds":
        return StageSeconds(self.read / parts, self.predict / parts, self.commit / parts)


NO_SECONDS = StageSeconds()
SECONDS = pa.struct([(stage, pa.float64()) for stage in ("read", "predict", "commit")])
"""Type of the column `seconds`, in which they travel from stage to stage."""


def timed(stage: Stage, work: Callable[[], pa.Table]) -> pa.Table:
    """What some work gives back, with the time that it took added to the column `seconds`."""
    began = time.perf_counter()
    table = work()
    took = time.perf_counter() - began
    rows = table["seconds"].to_pylist()
    for row in rows:
        row[stage] += took
    index = table.schema.get_field_index("seconds")
    return table.set_column(index, table.schema.field(index), [pa.array(rows, SECONDS)])
