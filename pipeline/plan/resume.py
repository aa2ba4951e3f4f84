"""What an interrupted plan still has to do."""

import contextlib
from collections.abc import Container, Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.plan.database import Database, open_database, temporary_folder
from pipeline.plan.grouping import shard_id
from pipeline.plan.plan import Plan, Spool, run_starts
from pipeline.tables.schema import PLAN

_LIVE = pa.schema([("image_id", pa.string()), ("shard", pa.string())])
"""Of the rows that count; image_id stands for (uri, version)."""
_WAITING = pa.schema(
    [
        ("number", pa.int64()),
        ("image_id", pa.string()),
        ("old_shard", pa.string()),
        ("old_image", pa.string()),
    ]
)


@contextlib.contextmanager
def remaining(
    plan_batches: Iterable[pa.RecordBatch],
    committed: Container[str],
    live_elsewhere: Iterable[pa.RecordBatch],
    results: str,
) -> Iterator[Plan]:
    """The plan without what is committed, and without images that another run did meanwhile.

    Shards stay as they are, but for those of which some images are live in another shard: what is
    left of them goes on as a smaller shard with an id of its own, so that no image is ever in two
    committed shards. The live row that an image is planned to replace does not count as done.

    Args:
        plan_batches: rows of PLAN, those of a shard consecutive; walked through once.
        committed: ids of shards.
        live_elsewhere: rows that count, at least with image_id and shard; those of the plan's own
            committed shards may be among them.
        results: fingerprint of the model and the settings that change results.

    Raises:
        StorageError: there is no room for the temporary files.
    """
    with temporary_folder() as folder:
        counted, given_up = _Counted(plan_batches), list[str]()
        plan = Spool(f"{folder}/uncommitted.arrow")
        with plan:
            for batch in counted.batches():
                plan.write(_uncommitted(batch, committed))
        with open_database(folder) as database:
            done = _done_elsewhere(database, plan, live_elsewhere)
        if len(done):
            waiting, plan = plan, Spool(f"{folder}/plan.arrow")
            with plan:
                for batch, is_done in _with_marks(_whole_shards(waiting.batches()), done):
                    plan.write(_without(batch, is_done, results, given_up))
        yield Plan(
            listed=counted.rows,
            repeated=0,
            images=plan.images,
            bytes=plan.bytes,
            shards=plan.shards,
            changed=plan.changed,
            spool=plan,
            given_up=tuple(given_up),
        )


class _Counted:
    """Batches of PLAN, and how many rows there were."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.rows = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += batch.num_rows
            yield batch.select(PLAN.names).cast(PLAN)


def _uncommitted(batch: pa.RecordBatch, committed: Container[str]) -> pa.RecordBatch:
    shards = batch["shard"].dictionary_encode()
    waits = np.array([name not in committed for name in shards.dictionary.to_pylist()], bool)
    if waits.all():
        return batch
    return batch.filter(pa.array(waits[shards.indices.to_numpy()]))


def _done_elsewhere(
    database: Database, waiting: Spool, live: Iterable[pa.RecordBatch]
) -> NDArray[np.int64]:
    """The ascending numbers of rows that are live in a shard which they don't replace."""
    with database.incoming("rows", _LIVE, live):
        database.run("create table live as select * from rows")
    if database.numbers("select count(*) from live") == (0,):
        return np.empty(0, np.int64)
    with database.incoming("rows", _WAITING, _numbered(waiting.batches())):
        database.run("create table waiting as select * from rows")
    found = database.connection.sql(
        """select distinct number from waiting join live using (image_id)
        where old_shard is distinct from live.shard or old_image is distinct from live.image_id
        order by number"""
    )
    numbers: NDArray[np.int64] = found.fetchnumpy()["number"]
    return numbers


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    first = 0
    for batch in batches:
        numbers = pa.array(np.arange(first, first + batch.num_rows))
        columns = [batch[name] for name in _WAITING.names[1:]]
        yield pa.record_batch([numbers, *columns], _WAITING)
        first += batch.num_rows


def _whole_shards(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that end where a shard ends."""
    rest = PLAN.empty_table()
    for batch in batches:
        rows = pa.concat_tables([rest, pa.Table.from_batches([batch])]).combine_chunks()
        last = run_starts(rows["shard"].combine_chunks())[-1]
        yield from rows.slice(0, last).to_batches()
        rest = rows.slice(last)
    yield from rest.to_batches()


def _with_marks(
    batches: Iterable[pa.RecordBatch], done: NDArray[np.int64]
) -> Iterator[tuple[pa.RecordBatch, NDArray[np.bool_]]]:
    """Batches, and which of their rows are done."""
    first = 0
    for batch in batches:
        low, high = np.searchsorted(done, [first, first + batch.num_rows])
        marks = np.zeros(batch.num_rows, bool)
        marks[done[low:high] - first] = True
        yield batch, marks
        first += batch.num_rows


def _without(
    batch: pa.RecordBatch, is_done: NDArray[np.bool_], results: str, given_up: list[str]
) -> pa.RecordBatch:
    """What is left of whole shards; the ids of those that lose rows go to `given_up`."""
    if not is_done.any():
        return batch
    starts = run_starts(batch["shard"])
    shards, images, old = (batch[k].to_pylist() for k in ("shard", "image_id", "old_shard"))
    for start, end in zip(starts, [*starts[1:], len(shards)], strict=True):
        if not is_done[start:end].any():
            continue
        given_up.append(shards[start])
        left = (start + np.flatnonzero(~is_done[start:end])).tolist()
        smaller = shard_id(
            results, [images[i] for i in left], (old[i] for i in left if old[i] is not None)
        )
        shards[start:end] = [smaller] * (end - start)
    return batch.set_column(0, PLAN.field(0), pa.array(shards, pa.string())).filter(
        pa.array(~is_done)
    )
