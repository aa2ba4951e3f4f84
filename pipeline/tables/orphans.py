"""Files that count for nothing: what a shard wrote that was never committed."""

from collections.abc import Callable, Iterator

from pipeline import storage
from pipeline.tables.layout import LEASE, by_shard, is_shard, shard_file, shards_in
from pipeline.tables.schema import SCHEMAS

_WAVE = 1024  # files that are removed before it is asked again whether they may be


def orphans(dataset: str) -> Iterator[str]:
    """Files of tables whose shard has no images file.

    They are no loss: a shard is always computed whole. Only for who holds the lease, since a shard
    that is being written looks the same. What is not called like a shard is somebody else's.
    """
    return (file for shard, file in _uncounted(dataset) if is_shard(shard))


def foreign(dataset: str) -> Iterator[str]:
    """Parquet files in the tables' folders that no shard is called like: somebody's copies.

    They are left alone, but a plain glob reads them.
    """
    return (file for shard, file in _uncounted(dataset) if not is_shard(shard))


def _uncounted(dataset: str) -> Iterator[tuple[str, str]]:
    """What files in the tables' folders are called, and the files, where no commit is of them."""
    committed = shards_in(dataset, "images")
    for table in SCHEMAS:
        # By files, since a shard may have several in one table: somebody's copy, elsewhere.
        for path in storage.list_paths(storage.join(dataset, table)):
            for shard, partition in by_shard([path]).items():
                if committed.get(shard) != partition:
                    yield shard, shard_file(dataset, table, partition, shard)


def unfinished(dataset: str) -> Iterator[str]:
    """What writes that never ended have left, but for those of the lease, whose holder is alive."""
    lease = storage.join(dataset, LEASE) + "/"
    return (file for file in storage.unfinished_files(dataset) if not file.startswith(lease))


def remove_orphans(dataset: str, check: Callable[[], None]) -> int:
    """Returns how many there were.

    Args:
        check: raises when this process may not remove any more: what counts for nothing to who
            was asleep may be another run's by now.
    """
    number = 0
    # Unfinished files first: a writer whose lease is lost can't commit a shard any more then, and
    # none is taken for an orphan that is committed during the listing.
    for find in (unfinished, orphans):
        found = list(find(dataset))
        for first in range(0, len(found), _WAVE):
            check()
            storage.remove_many(found[first : first + _WAVE])
        number += len(found)
    return number
