"""Law 1 over a whole dataset: what was planned is there, and nothing is there twice."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from pipeline.plan.database import open_database, temporary_folder
from pipeline.tables.schema import PLAN

_ROWS = 50_000
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
        plans: rows of PLAN, oldest first.
        live: the rows that count, at least with uri.
    """
    with temporary_folder() as folder, open_database(folder) as database:
        with database.incoming("rows", _URI, live):
            database.run("create table live as select distinct uri from rows")
        with database.incoming("rows", _NUMBERED, _numbered(plans)):
            database.run("create table missing as select * from rows anti join live using (uri)")
        newest = """select * exclude (number) from missing
            qualify row_number() over (partition by uri order by number desc) = 1 order by uri"""
        for batch in database.stream(newest, _ROWS):
            yield batch.select(PLAN.names).cast(PLAN)


def _numbered(plans: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """With the place of each row, which the database does not keep."""
    first = 0
    for batch in plans:
        numbers = pa.array(np.arange(first, first + batch.num_rows))
        yield pa.record_batch([*batch.select(PLAN.names).columns, numbers], _NUMBERED)
        first += batch.num_rows
