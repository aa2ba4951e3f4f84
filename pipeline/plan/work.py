"""A new plan: which of the listed images have to be done, in shards."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.errors import SettingsError
from pipeline.images.collection import listing_schema
from pipeline.images.lookup import UNKNOWN
from pipeline.images.partitions import partition_dir
from pipeline.plan.database import Database, open_database, temporary_folder
from pipeline.plan.grouping import shard_ends, shard_id
from pipeline.plan.plan import Plan, Spool
from pipeline.tables.schema import PLAN

LIVE = pa.schema([(name, pa.string()) for name in ("uri", "image_id", "shard")])
"""What the planner needs of the rows that count; image_id stands for (uri, version)."""
RETRY = pa.schema([("uri", pa.string())])
_PLACES = pa.schema([(name, pa.string()) for name in ("shard", "partition")])
_ROWS = 50_000


@contextlib.contextmanager
def plan_work(
    listing: Iterable[pa.RecordBatch],
    live: Iterable[pa.RecordBatch],
    *,
    partition_columns: tuple[str, ...] = (),
    places: Mapping[str, str] | None = None,
    where: str | None = None,
    replace: bool = False,
    retry: Iterable[pa.RecordBatch] | None = None,
    images_per_shard: int,
    bytes_per_shard: int,
    results: str,
) -> Iterator[Plan]:
    """Plan the listed images that are not live, in the order of partition and URI.

    One that can't be looked up keeps the rows that it has.

    A URI that is listed several times counts once, as the last of its rows that are asked for says.

    Args:
        listing: batches of `listing_schema`; walked through once.
        live: the rows that count, at least with uri, image_id and shard; walked through once.
        places: shard → partition of what is live: an image that is listed for another one is done
            again, there. Without any, partitions are not looked at.
        where: SQL condition on uri, version, size and the partitions.
        replace: also do again what is live.
        retry: batches with a column uri: do these again, if they are listed.
        results: fingerprint of the model and the settings that change results.

    Raises:
        SettingsError: `where` is no condition on these columns.
        StorageError: there is no room for the temporary files.
    """
    with temporary_folder() as folder:
        spool = Spool(f"{folder}/plan.arrow")
        # The database is closed before the plan is used, which may take days.
        with open_database(folder) as database:
            with _listing_errors(where, partition_columns):
                repeated = _take_listing(database, listing, partition_columns, where)
            (listed,) = database.numbers("select count(*) from listed")
            _take_live(database, live, places or {})
            with database.incoming("rows", RETRY, retry or ()):
                database.run("create table retry as select distinct uri from rows")
            _find_pending(database, replace, "image_id, partition" if places else "image_id")
            with spool:
                ordered = database.stream(_ORDERED, _ROWS)
                for batch in _in_shards(ordered, images_per_shard, bytes_per_shard, results):
                    spool.write(batch)
        yield Plan(
            listed=listed,
            repeated=repeated,
            images=spool.images,
            bytes=spool.bytes,
            shards=spool.shards,
            changed=spool.changed,
            spool=spool,
        )


def _take_live(
    database: Database, live: Iterable[pa.RecordBatch], places: Mapping[str, str]
) -> None:
    """Make the table `live` of the rows that count, each with its partition."""
    found = pa.table([pa.array(part, pa.string()) for part in (places, places.values())], _PLACES)
    with database.incoming("rows", _PLACES, found.to_batches()):
        database.run("create table places as select * from rows")
    with database.incoming("rows", LIVE, live):
        database.run("create table live as select * from rows left join places using (shard)")
    database.run("drop table places")


def _take_listing(
    database: Database,
    listing: Iterable[pa.RecordBatch],
    partition_columns: tuple[str, ...],
    where: str | None,
) -> int:
    """Make the table `listed` of the rows that are asked for; returns how many were repeated."""
    given = listing_schema(partition_columns)
    schema = given.append(pa.field("_row", pa.int64())).append(pa.field("_folder", pa.string()))
    with database.incoming("rows", schema, _with_folders(listing, given, partition_columns)):
        rows = database.connection.view("rows")
        if where is not None:
            rows = rows.filter(duckdb.SQLExpression(where))
        rows.project("_row, _folder as partition, image_id, uri, version, size").create("listed")
    rows_n, distinct = database.numbers("select count(*), count(distinct uri) from listed")
    if rows_n > distinct:
        database.run(
            """create table repeated as
            select uri, max(_row) as last from listed group by uri having count(*) > 1"""
        )
        database.run(
            """delete from listed using repeated
            where listed.uri = repeated.uri and listed._row <> repeated.last"""
        )
    return rows_n - distinct


def _with_folders(
    listing: Iterable[pa.RecordBatch], given: pa.Schema, partition_columns: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The listing with a number a row, and the folder of its partition."""
    first = 0
    for batch in listing:
        batch = batch.select(given.names)
        numbers = pa.array(np.arange(first, first + batch.num_rows))
        folders = _folders(batch, partition_columns)
        yield pa.record_batch([*batch.columns, numbers, folders], [*given.names, "_row", "_folder"])
        first += batch.num_rows


def _folders(batch: pa.RecordBatch, columns: tuple[str, ...]) -> pa.Array:
    """The partition's folder of every row; each different one is spelled once."""
    if not columns:
        return pa.array([""] * batch.num_rows, pa.string())
    codes = np.zeros(batch.num_rows, np.int64)
    encoded = []
    for name in columns:
        column = batch[name].dictionary_encode(null_encoding="encode")
        index = column.indices.to_numpy()
        # Combinations are numbered anew after each column, so that the numbers stay small.
        codes = np.unique(codes * len(column.dictionary) + index, return_inverse=True)[1]
        encoded.append((index, column.dictionary.to_pylist()))
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    spelled = [
        partition_dir(columns, [words[index[row]] for index, words in encoded]) for row in first
    ]
    return pa.array(spelled, pa.string()).take(pa.array(inverse))


@contextlib.contextmanager
def _listing_errors(where: str | None, partition_columns: tuple[str, ...]) -> Iterator[None]:
    """What DuckDB finds wrong with the condition, as one line."""
    try:
        yield
    except (duckdb.OutOfMemoryException, duckdb.IOException):
        raise
    except duckdb.Error as error:
        if where is None:
            raise
        reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
        names = ", ".join(("uri", "version", "size", *partition_columns))
        raise SettingsError(f"where {where!r}: {reason}; the columns are {names}") from error


def _find_pending(database: Database, replace: bool, key: str) -> None:
    """Make the tables `pending`, and `old`, a live row for each of their URIs.

    Args:
        key: columns that are as they were where an image is done.
    """
    if replace:
        database.run("alter table listed rename to pending")
    else:
        database.run(
            f"""create table pending as select * from listed
            where ({key}) not in (select {key} from live) or uri in (select uri from retry)"""
        )
        database.run("drop table listed")
        if database.numbers(f"select count(*) from pending where version = '{UNKNOWN}'") != (0,):
            # What was found while it could be looked up is not given away for a reject.
            database.run(
                f"""delete from pending where version = '{UNKNOWN}'
                and uri in (select uri from live) and uri not in (select uri from retry)"""
            )
    chosen = "true" if replace else "uri in (select uri from pending)"
    database.run(
        f"""create table old as
        select uri, min(struct_pack(shard := shard, image_id := image_id)) as row
        from live where {chosen} group by uri"""
    )
    database.run("drop table live")


_ORDERED = """
select partition, image_id, uri, version, size, row.shard as old_shard, row.image_id as old_image
from pending left join old using (uri) order by partition, uri
"""


def _in_shards(
    ordered: Iterable[pa.RecordBatch], images_per_shard: int, bytes_per_shard: int, results: str
) -> Iterator[pa.RecordBatch]:
    """Ordered rows with their shard's id: batches of PLAN, of whole shards."""
    rest = PLAN.remove(0).empty_table()
    for batch in ordered:
        rows = pa.concat_tables([rest, pa.Table.from_batches([batch]).cast(rest.schema)])
        ends = _ends(rows, images_per_shard, bytes_per_shard)
        whole = ends[-2] if len(ends) > 1 else 0  # the last shard may go on in the next batch
        if whole:
            yield _named(rows.slice(0, whole), ends[:-1], results)
        rest = rows.slice(whole)
    if len(rest):
        yield _named(rest, _ends(rest, images_per_shard, bytes_per_shard), results)


def _ends(rows: pa.Table, images_per_shard: int, bytes_per_shard: int) -> list[int]:
    partitions = rows["partition"].combine_chunks().dictionary_encode()
    if isinstance(partitions, pa.ChunkedArray):
        partitions = partitions.combine_chunks()
    codes = partitions.indices.to_numpy().astype(np.int64)
    return shard_ends(codes, rows["size"].to_numpy(), images_per_shard, bytes_per_shard)


def _named(rows: pa.Table, ends: list[int], results: str) -> pa.RecordBatch:
    images = rows["image_id"].to_pylist()
    partitions = rows["partition"].to_pylist()
    any_old = rows["old_shard"].null_count < len(rows)
    old = rows["old_shard"].to_pylist() if any_old else []
    starts = [0, *ends[:-1]]
    ids = [
        shard_id(
            results,
            images[start:end],
            (shard for shard in old[start:end] if shard is not None),
            partitions[start],
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    lengths = np.diff([0, *ends])
    shards = pa.array(ids, pa.string()).take(pa.array(np.repeat(np.arange(len(ids)), lengths)))
    (batch,) = rows.add_column(0, PLAN.field(0), shards).combine_chunks().to_batches()
    return batch
