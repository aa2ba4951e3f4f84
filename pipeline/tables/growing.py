"""A shard whose rows do not fit in memory: its tables are written as the rows come.

What is written, and how it is committed, is that of `shard`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.records import SourceImage
from pipeline.tables.files import parquet_writer
from pipeline.tables.layout import shard_file
from pipeline.tables.replacing import record_of, write_record
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.shard import Provenance, Rows, with_provenance


class GrowingShard:
    """The tables of a shard while they are written. Use `growing_shard`."""

    def __init__(self, writers: dict[str, pq.ParquetWriter], provenance: Provenance) -> None:
        self._writers = writers
        self.provenance = provenance
        self.written = 0
        """Bytes of rows, before compression."""

    def add(self, table: str, rows: Rows) -> None:
        """Rows of one table, without the columns that say where they come from."""
        self.add_table(table, with_provenance(rows, SCHEMAS[table], self.provenance))

    def add_table(self, table: str, rows: pa.Table) -> None:
        """Rows of one table, complete: a row group, where there are any."""
        if rows.num_rows:
            self._writers[table].write_table(rows)
            self.written += rows.nbytes


@contextmanager
def growing_shard(
    dataset: str,
    provenance: Provenance,
    sources: Iterable[SourceImage],
    before_commit: Callable[[], None],
) -> Iterator[GrowingShard]:
    """Write all tables of a shard; it is committed once the `with` has ended without an error.

    Args:
        sources: every image of the shard.
        before_commit: raises when this process may no longer commit.
    """

    def open_table(stack: ExitStack, name: str) -> pq.ParquetWriter:
        uri = shard_file(dataset, name, provenance.partition, provenance.shard)
        file = stack.enter_context(storage.open_output(uri))
        return stack.enter_context(parquet_writer(file, SCHEMAS[name]))

    # The images file, which commits the shard, is completed last: what was opened first.
    with ExitStack() as commit:
        writers = {"images": open_table(commit, "images")}
        with ExitStack() as others:
            for name in SCHEMAS:
                if name != "images":
                    writers[name] = open_table(others, name)
            yield GrowingShard(writers, provenance)
        record = record_of(sorted(sources, key=lambda source: source.uri))
        write_record(dataset, provenance.shard, record)
        before_commit()
