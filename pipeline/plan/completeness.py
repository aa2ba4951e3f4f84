"""A whole dataset: what was planned is there, nothing is there twice, and what is gone is out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.plan.database import open_database, temporary_folder
from pipeline.tables.schema import PLAN

_ROWS = 50_000
_ROW = pa.schema([(name, pa.string()) for name in ("uri", "image_id", "shard")])
_URI = pa.schema([("uri", pa.string())])
_NUMBERED = PLAN.append(pa.field("number", pa.int64()))


def repeated_uris(live: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, int]]:
    """URIs that count more than once, and how often.

    Args:
        live: the rows that count, at least with uri.
    """
    with temporary_folder() as folder, open_database(folder) as database:
        with database.incoming("rows", _URI, live):
            database.run("create table live as select * from rows")
        repeated = (
            "select uri, count(*) as n from live group by uri having count(*) > 1 order by uri"
        )
        for batch in database.stream(repeated, _ROWS):
            yield from zip(batch["uri"].to_pylist(), batch["n"].to_pylist(), strict=True)


def missing_images(
    plans: Iterable[pa.RecordBatch], live: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Planned images of whose URI nothing counts, once each, as they were planned last.

    Args:
        plans: rows of PLAN, oldest first; without a shard where the image was taken out.
        live: the rows that count, at least with uri.
    """
    with temporary_folder() as folder, open_database(folder) as database:
        with database.incoming("rows", _URI, live):
            database.run("create table live as select distinct uri from rows")
        with database.incoming("rows", _NUMBERED, _numbered(plans)):
            database.run("create table missing as select * from rows anti join live using (uri)")
        newest = """select * exclude (number) from (select * from missing
            qualify row_number() over (partition by uri order by number desc) = 1)
            where shard is not null order by uri"""
        for batch in database.stream(newest, _ROWS):
            yield batch.select(PLAN.names).cast(PLAN)


@dataclass(frozen=True)
class Gone:
    """Images that were done and are no longer there."""

    rows: pa.Table
    """uri, image_id and shard of what the dataset holds of each."""
    share: float
    """Of all that is done of the collection."""

    @property
    def number(self) -> int:
        return int(self.rows.num_rows)


def gone_images(
    planned: Iterable[pa.RecordBatch],
    live: Iterable[pa.RecordBatch],
    listing: Iterable[pa.RecordBatch],
) -> Gone:
    """What counts of a collection's images, and is not listed any more.

    Args:
        planned: what was ever planned of the collection, at least with uri: the dataset may hold
            images of others as well.
        live: the rows that count, at least with uri, image_id and shard.
        listing: the whole collection, at least with uri.
    """
    with temporary_folder() as folder, open_database(folder) as database:
        with database.incoming("rows", _URI, planned):
            database.run("create table planned as select distinct uri from rows")
        with database.incoming("rows", _ROW, live):
            database.run("create table live as select * from rows semi join planned using (uri)")
        with database.incoming("rows", _URI, listing):
            database.run("create table gone as select * from live anti join rows using (uri)")
        (done,) = database.numbers("select count(*) from live")
        rows = pa.Table.from_batches(
            database.stream("select uri, image_id, shard from gone order by uri", _ROWS), _ROW
        )
        return Gone(rows, rows.num_rows / max(done, 1))


def _numbered(plans: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """With the place of each row, which the database does not keep."""
    first = 0
    for batch in plans:
        numbers = pa.array(np.arange(first, first + batch.num_rows))
        yield pa.record_batch([*batch.select(PLAN.names).columns, numbers], _NUMBERED)
        first += batch.num_rows
