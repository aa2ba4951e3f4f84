"""What a dataset holds at one moment, whatever is written, replaced or compacted meanwhile.

A shard counts when its images file is there. A row counts unless a shard that counts replaces it
(see `replacing`). The files of a shard never change; those that are replaced are removed in the
end. A reader that meets a missing file has an old snapshot, and starts over with a new one.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipeline import storage
from pipeline.errors import ChangedError, DatasetError, MissingError
from pipeline.tables.layout import REPLACED, by_shard, shard_file, shards_in
from pipeline.tables.replacing import read_record
from pipeline.tables.schema import SCHEMAS

_TRIES = 20
_PARQUET = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)


@dataclass(frozen=True)
class Replaced:
    """Rows of one shard that no longer count."""

    images: frozenset[str]
    uris: frozenset[str]


@dataclass(frozen=True)
class Snapshot:
    """The shards that count, and which of their rows do not."""

    uri: str
    partition_columns: tuple[str, ...]
    shards: Mapping[str, str]
    """Shard → partition."""
    replaced: Mapping[str, Replaced] = field(default_factory=dict)
    """Shard → its rows that another shard replaces."""
    leftover: Mapping[str, str] = field(default_factory=dict)
    """Shards all of whose rows are replaced, but whose files are still there → partition."""
    records: tuple[str, ...] = ()
    """Shards that have a record of what they replace, whether they count or not."""

    @property
    def swept(self) -> bool:
        """No file holds a row that does not count, so a plain glob sees what counts."""
        return not (self.replaced or self.leftover or self.records)

    def only(self, shards: Iterable[str]) -> "Snapshot":
        """The part of it that some shards are."""
        chosen = [shard for shard in shards if shard in self.shards]
        return Snapshot(
            self.uri,
            self.partition_columns,
            {shard: self.shards[shard] for shard in chosen},
            {shard: self.replaced[shard] for shard in chosen if shard in self.replaced},
        )

    def around(self, image_id: str, shard: str) -> "Snapshot":
        """The part that holds the rows of an image: its shard, or all where it has moved since.

        Args:
            shard: the one that it was in when somebody looked.
        """
        gone = self.replaced.get(shard)
        moved = shard not in self.shards or (gone is not None and image_id in gone.images)
        return self if moved else self.only([shard])

    def scan(
        self, table: str, columns: list[str], where: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a table that count, in batches; the whole is never in memory.

        Raises:
            ChangedError: the files of this snapshot were replaced meanwhile: take another.
            DatasetError: one is damaged.
            StorageError: one can't be had.
        """
        whole = [shard for shard in self.shards if shard not in self.replaced]
        yield from self._scan(table, whole, columns, where)
        for shard in self.replaced:
            if shard in self.shards:
                kept = self._kept(table, shard)
                yield from self._scan(
                    table, [shard], columns, kept if where is None else kept & where
                )

    def _kept(self, table: str, shard: str) -> pc.Expression:
        """The rows that count of a shard with replaced ones, as a condition on a table."""
        gone = self.replaced[shard]
        key, values = ("uri", gone.uris) if table == "rejects" else ("image_id", gone.images)
        return ~pc.field(key).isin(pa.array(sorted(values), pa.string()))

    def _scan(
        self, table: str, shards: list[str], columns: list[str], where: pc.Expression | None
    ) -> Iterator[pa.RecordBatch]:
        if not shards:
            return
        fs, root = storage.arrow_filesystem(self.uri)
        files = [shard_file(root, table, self.shards[shard], shard) for shard in sorted(shards)]
        hive = pa.schema([(name, pa.string()) for name in self.partition_columns])
        with storage.named(self.uri, "read"), self._told(table):
            # Making a dataset looks at the files already, where they are local ones.
            source = pads.dataset(
                files,
                pa.schema([*SCHEMAS[table], *hive]),
                format=_PARQUET,
                filesystem=fs,
                partitioning=pads.partitioning(hive, flavor="hive"),
                partition_base_dir=storage.join(root, table),
            )
            yield from source.to_batches(columns=columns, filter=where)

    @contextmanager
    def _told(self, table: str) -> Iterator[None]:
        """What reading files tells of them."""
        try:
            yield
        except (FileNotFoundError, MissingError) as error:
            raise ChangedError(f"{self.uri} was changed while it was read") from error
        except (pa.ArrowException, OSError) as error:
            if not storage.of_content(error):
                raise
            raise DatasetError(
                f"{self.uri}: the table {table} has a damaged file; jobs.verify tells which: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error


def take_snapshot(uri: str, partition_columns: tuple[str, ...]) -> Snapshot:
    """List what is there.

    Images come before records: whoever removes replaced files removes their record last, so a
    shard without its record here is one whose replaced files are gone, which a reader notices.
    And a record whose shard was not listed may be of one that was committed behind the listing's
    back: it may have come too late to see the old shard as well.
    """
    for _ in range(_TRIES):
        committed = dict(shards_in(uri, "images"))
        records = tuple(by_shard(storage.list_paths(storage.join(uri, REPLACED))))
        behind = set(records) - committed.keys()
        if behind:
            now = shards_in(uri, "images")
            committed |= {shard: now[shard] for shard in behind & now.keys()}
        try:
            rows = [read_record(uri, shard) for shard in records if shard in committed]
        except MissingError:
            continue  # swept in between
        return _snapshot(uri, partition_columns, committed, records, rows)
    raise ChangedError(f"{uri} changes faster than it can be listed; try again later")


def _snapshot(
    uri: str,
    partition_columns: tuple[str, ...],
    committed: Mapping[str, str],
    records: tuple[str, ...],
    rows: list[pa.Table],
) -> Snapshot:
    wholly: set[str] = set()
    images: dict[str, set[str]] = {}
    uris: dict[str, set[str]] = {}
    for record in rows:
        for row in record.to_pylist():
            if row["image_id"] is None:
                wholly.add(row["shard"])
            else:
                images.setdefault(row["shard"], set()).add(row["image_id"])
                uris.setdefault(row["shard"], set()).add(row["uri"])
    return Snapshot(
        uri,
        partition_columns,
        {shard: part for shard, part in committed.items() if shard not in wholly},
        {
            shard: Replaced(frozenset(images[shard]), frozenset(uris[shard]))
            for shard in images
            if shard in committed and shard not in wholly
        },
        {shard: part for shard, part in committed.items() if shard in wholly},
        records,
    )
