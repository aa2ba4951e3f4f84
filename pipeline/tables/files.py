"""Tables ⇄ the bytes of Parquet files."""

import io
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DatasetError

ROW_GROUP = 128 * 1024
"""Most rows that a reader has to decode together."""
_OF_BYTES = "Could not open Parquet input source '<Buffer>': "  # whose name the caller knows


def to_parquet(table: pa.Table, row_group: int = ROW_GROUP) -> bytes:
    """A table as the bytes of a Parquet file, with checksums by which bit rot is found."""
    sink = io.BytesIO()
    with parquet_writer(sink, table.schema) as writer:
        writer.write_table(table, row_group)
    return sink.getvalue()


def parquet_writer(sink: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    """Writes tables, each as row groups of its own."""
    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True)


def from_parquet(data: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """The bytes of a Parquet file as a table.

    Raises:
        DatasetError: they are damaged.
    """
    try:
        return pq.read_table(pa.BufferReader(data), schema=schema, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from error


def batches_of_parquet(data: bytes) -> Iterator[pa.RecordBatch]:
    """The same, a batch at a time."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        yield from file.iter_batches()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> DatasetError:
    said = " ".join(str(error).split()).removeprefix(_OF_BYTES)
    return DatasetError(f"is damaged: {said[:200]}")
