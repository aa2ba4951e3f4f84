"""Annotated samples ⇄ the Arrow tables that Ray Data carries to the training workers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.distributed.blocks import raw_bytes
from pipeline.records import Box, Label, ObjectMask, Sample

_OBJECT = pa.struct(
    [
        ("id", pa.int32()),
        ("class_id", pa.int32()),
        ("box", pa.list_(pa.int32(), 4)),
        ("bits", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("pixels", pa.large_binary()),
        ("shape", pa.list_(pa.int64())),
        ("channels", pa.int64()),
        ("dtype", pa.string()),
        ("semantic", pa.large_binary()),
        ("instances", pa.large_binary()),
        ("objects", pa.list_(_OBJECT)),
    ]
)


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Samples as rows."""
    columns: dict[str, list[Any]] = {
        "name": [s.name for s in samples],
        "pixels": [raw_bytes(s.pixels) for s in samples],
        "shape": [list(s.pixels.shape) for s in samples],
        "channels": [s.pixels.shape[-1] for s in samples],
        "dtype": [s.pixels.dtype.str for s in samples],
        "semantic": [raw_bytes(s.label.semantic) for s in samples],
        "instances": [raw_bytes(s.label.instances) for s in samples],
        "objects": [[vars(one) for one in s.label.objects] for s in samples],
    }
    return pa.table(columns, SCHEMA)


def from_table(table: pa.Table) -> list[Sample]:
    """Rows as samples whose arrays are views into the table's memory."""
    samples = []
    for i in range(table.num_rows):
        shape = table["shape"][i].as_py()
        pixels = np.frombuffer(table["pixels"][i].as_buffer(), table["dtype"][i].as_py())
        semantic = np.frombuffer(table["semantic"][i].as_buffer(), np.uint8)
        instances = np.frombuffer(table["instances"][i].as_buffer(), np.int32)
        objects = tuple(
            ObjectMask(**{**one, "box": Box(*one["box"])}) for one in table["objects"][i].as_py()
        )
        label = Label(semantic.reshape(shape[:2]), instances.reshape(shape[:2]), objects)
        samples.append(Sample(table["name"][i].as_py(), pixels.reshape(shape), label))
    return samples
