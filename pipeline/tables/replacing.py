"""Records of what a shard replaces: written before its commit, in force from its commit on.

A record lives until the files that it speaks of are gone; in a dataset at rest there is none.
"""

from collections.abc import Iterable

import pyarrow as pa

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.records import SourceImage
from pipeline.tables.files import from_parquet, to_parquet
from pipeline.tables.layout import record_file
from pipeline.tables.schema import REPLACED


def record_of(images: Iterable[SourceImage]) -> pa.Table:
    """The rows that these images' results replace."""
    return pa.Table.from_pylist(
        [
            {"shard": one.replaces.shard, "image_id": one.replaces.image_id, "uri": one.uri}
            for one in images
            if one.replaces is not None
        ],
        REPLACED,
    )


def record_of_shards(shards: Iterable[str]) -> pa.Table:
    """Every row of these shards."""
    return pa.Table.from_pylist([{"shard": shard} for shard in shards], REPLACED)


def write_record(dataset: str, shard: str, record: pa.Table) -> None:
    """Say what a shard replaces, before it is committed; nothing is written for nothing."""
    if record.num_rows:
        storage.write_bytes(record_file(dataset, shard), to_parquet(record))


def read_record(dataset: str, shard: str) -> pa.Table:
    """What a shard replaces.

    Raises:
        MissingError: it has no record.
        DatasetError: it is damaged.
    """
    file = record_file(dataset, shard)
    data = storage.read_bytes(file)
    try:
        return from_parquet(data, REPLACED)
    except DatasetError as error:
        raise DatasetError(
            f"{file} is damaged, so nobody knows which rows shard {shard} replaces: remove that "
            "shard's file of the images table, and run jobs.verify --repair"
        ) from error
