"""Where the files of an output dataset lie.

images/date=2026-10-01/<shard>.parquet      a table, a partition, a shard
_replaced/<shard>.parquet                   which older rows the shard takes the place of
_runs/<run>/                                a run's plan and story
_lease/                                     who may write
"""

import re
from collections.abc import Iterable, Mapping

from pipeline import storage

REPLACED = "_replaced"
RUNS = "_runs"
LEASE = "_lease"

_SUFFIX = ".parquet"
_SHARD = re.compile("[0-9a-f]{16}")


def shard_file(dataset: str, table: str, partition: str, shard: str) -> str:
    """Where a shard's part of a table lies."""
    folders = [table, partition] if partition else [table]
    return storage.join(dataset, *folders, shard + _SUFFIX)


def record_file(dataset: str, shard: str) -> str:
    """Where it says which rows a shard replaces."""
    return storage.join(dataset, REPLACED, shard + _SUFFIX)


def is_shard(name: str) -> bool:
    """Whether it can be the id of a shard: a fingerprint (see `config.fingerprint`)."""
    return _SHARD.fullmatch(name) is not None


def shards_in(dataset: str, table: str) -> Mapping[str, str]:
    """Shard → partition of every file of a table."""
    return by_shard(storage.list_paths(storage.join(dataset, table)))


def by_shard(paths: Iterable[str]) -> dict[str, str]:
    """Relative paths of a table's files → shard → partition."""
    found = {}
    for path in paths:
        partition, _, name = path.rpartition("/")
        if name.endswith(_SUFFIX):
            found[name.removesuffix(_SUFFIX)] = partition
    return found
