"""What there is to predict: images below a prefix, or listed in a file; a stream of Arrow batches.

    source (prefix │ manifest │ S3 Inventory) ─ FOUND ─ identity and partitions ─ LISTING

Nothing is held for the whole collection, so its size does not matter. A manifest is Parquet or CSV
with a `uri` column, and optionally `version` and `size`, which spare looking every file up. URIs
that are relative are meant from the manifest's own folder.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import DataError, SettingsError
from pipeline.images.inventory import is_inventory, open_inventory, read_inventory
from pipeline.images.lists import BATCH_ROWS, ListFile, as_text, open_list
from pipeline.images.lookup import UNKNOWN, LookUp
from pipeline.images.manifest import read_manifest
from pipeline.images.partitions import PartitionSpec
from pipeline.images.reader import FORMATS

__all__ = ["Collection", "image_identity", "listing_schema", "open_collection"]

_LIST_SUFFIXES = (".parquet", ".csv", ".csv.gz")
_ZARR = r"(?is)^(?P<root>.*?[^/]\.zarr)/"
_NAMED = 5
"""Suffixes that are told of."""
_SUFFIX = r"[^/](?P<suffix>\.[A-Za-z][A-Za-z0-9]{0,9})$"  # no number, of which there may be many
Source = Callable[[], Iterator[pa.RecordBatch]]
"""Batches with uri, version (null where the store has to be asked), size, and the columns that
partitions come from."""


def listing_schema(partition_columns: tuple[str, ...] = ()) -> pa.Schema:
    """Of the batches of a collection: a row an image, a string column a partition."""
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("uri", pa.string()),
            ("version", pa.string()),
            ("size", pa.int64()),  # bytes, -1 where the listing does not say
            *((name, pa.string()) for name in partition_columns),
        ]
    )


def image_identity(uri: str, version: str) -> str:
    """The image_id: a hash of (uri, version), so the same in every run and process."""
    return hashlib.blake2b(f"{uri}\0{version}".encode(), digest_size=12).hexdigest()


class Collection:
    """The images of an input, as they are listed: in no order, and repeated ones repeatedly."""

    def __init__(self, uri: str, partitions: PartitionSpec, source: Source, by_name: bool) -> None:
        """Use `open_collection`.

        Args:
            uri: as it was given; kept in the one spelling by which a collection is known again.
            by_name: the source lists files of any kind, of which those with an image's name count.
        """
        self.uri = storage.canonical(uri)
        self.partitions = partitions
        self.listed = 0
        """Images, counted while the batches are walked through."""
        self.ignored = 0
        """Files that no image suffix names."""
        self._suffixes: Counter[str] = Counter()
        self.unknown = 0
        """Images that can't be looked up."""
        self.unpartitioned = 0
        """Images for which some partition has no value."""
        self._source = source
        self._by_name = by_name

    @property
    def ignored_suffixes(self) -> str:
        """The most frequent ones of the files that count for nothing, such as `.csv 12, .md 1`."""
        named = [f"{name} {number:,}" for name, number in self._suffixes.most_common(_NAMED)]
        return ", ".join(named + (["…"] if len(self._suffixes) > _NAMED else []))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The images, in batches of `listing_schema`; each call lists anew.

        Raises:
            StorageError: it can't be listed.
            DataError: a manifest or an inventory can't be read.
        """
        self.listed = self.ignored = self.unknown = self.unpartitioned = 0
        self._suffixes.clear()
        zarrs: set[str] = set()
        look_up = LookUp()
        for found in self._source():
            batches = self._images_of(found, zarrs) if self._by_name else [found]
            for batch in batches:
                if batch.num_rows:
                    yield self._listing(batch, look_up)

    def _images_of(self, found: pa.RecordBatch, zarrs: set[str]) -> Iterator[pa.RecordBatch]:
        """The files that are images, and the Zarrs that files belong to, each once."""
        roots = pc.struct_field(pc.extract_regex(found["uri"], _ZARR), "root")
        rest = found.filter(roots.is_null())
        new = set(roots.drop_null().unique().to_pylist()) - zarrs
        if new:
            zarrs |= new
            uris = pa.array(sorted(new), pa.string())
            unknown = pa.nulls(len(uris), pa.string())
            sizes = pa.array([-1] * len(uris), pa.int64())
            yield pa.record_batch({"uri": uris, "version": unknown, "size": sizes})
        pattern = rf"(?i)[^/]({'|'.join(map(_escaped, FORMATS))})$"
        is_image = pc.match_substring_regex(rest["uri"], pattern)
        self._ignore(rest["uri"].filter(pc.invert(is_image)))
        yield rest.filter(is_image)

    def _ignore(self, uris: pa.Array) -> None:
        self.ignored += len(uris)
        found = pc.struct_field(pc.extract_regex(uris, _SUFFIX), "suffix").drop_null()
        for pair in pc.value_counts(pc.utf8_lower(found)).to_pylist():
            self._suffixes[pair["values"]] += pair["counts"]

    def _listing(self, batch: pa.RecordBatch, look_up: LookUp) -> pa.RecordBatch:
        uris, versions, sizes = batch["uri"], batch["version"], batch["size"]
        if versions.null_count:
            versions, sizes = look_up.complete(uris, versions, sizes)
            self.unknown += versions.to_pylist().count(UNKNOWN)
        given = {name: as_text(batch, name, self.uri) for name in self.partitions.from_manifest}
        values = self.partitions.values(uris, given)
        self.listed += batch.num_rows
        if values:
            blank = values[0].is_null()
            for column in values[1:]:
                blank = pc.or_(blank, column.is_null())
            self.unpartitioned += int(pc.sum(blank).as_py())
        columns = [_identities(uris, versions), uris, versions, sizes, *values]
        return pa.record_batch(columns, listing_schema(self.partitions.names))


def open_collection(uri: str, partitions: PartitionSpec | None = None) -> Collection:
    """A prefix, a single image, a manifest, or an S3 Inventory; it is read by `batches`.

    Raises:
        StorageError: it can't be looked up.
        DataError: it does not exist, or lies inside an image; or its file can't be read or has not
            the columns needed.
        SettingsError: a partition is a column, and there are no columns.
    """
    uri, partitions = storage.absolute(uri), partitions or PartitionSpec()
    if uri.lower().endswith(_LIST_SUFFIXES):
        table = open_list(uri)
        if is_inventory(table.names):
            return _of_inventory(uri, partitions, lambda: iter([table]))
        table.require("uri", *partitions.from_manifest)
        return Collection(uri, partitions, lambda: read_manifest(table, partitions), False)
    if PurePosixPath(uri).suffix.lower() == ".json":
        return _of_inventory(uri, partitions, open_inventory(uri))
    _refuse_columns(uri, partitions)
    if inside := re.match(_ZARR, uri):
        raise DataError(f"{uri} lies inside {inside['root']}, which is one image: give that")
    if not storage.exists(uri):
        raise DataError(f"{uri} does not exist")
    return Collection(uri, partitions, lambda: _walk(uri), True)


def _of_inventory(
    uri: str, partitions: PartitionSpec, tables: Callable[[], Iterator[ListFile]]
) -> Collection:
    _refuse_columns(uri, partitions)
    return Collection(uri, partitions, lambda: read_inventory(tables()), True)


def _refuse_columns(uri: str, partitions: PartitionSpec) -> None:
    for name in partitions.from_manifest:
        raise SettingsError(
            f"partition {name}: only a manifest has columns, which {uri} is not; give {name}=REGEX"
        )


def _walk(uri: str) -> Iterator[pa.RecordBatch]:
    """Every file below a prefix."""
    chunk: list[storage.StoredFile] = []
    for file in storage.walk(uri):
        chunk.append(file)
        if len(chunk) == BATCH_ROWS:
            yield _found(chunk)
            chunk = []
    yield _found(chunk)


def _found(files: list[storage.StoredFile]) -> pa.RecordBatch:
    try:
        uris = pa.array([file.uri for file in files], pa.string())
    except UnicodeEncodeError as error:
        raise DataError(f"a file's name is not UTF-8, rename it: {error.object!r}") from error
    versions = pa.array([file.version for file in files], pa.string())
    sizes = pa.array([file.size for file in files], pa.int64())
    return pa.record_batch({"uri": uris, "version": versions, "size": sizes})


def _identities(uris: pa.Array, versions: pa.Array) -> pa.Array:
    """`image_identity` of every row, for millions of them."""
    keys = pc.binary_join_element_wise(uris, versions, "\0").cast(pa.binary()).to_pylist()
    return pa.array([hashlib.blake2b(key, digest_size=12).hexdigest() for key in keys], pa.string())


def _escaped(suffix: str) -> str:
    return suffix.replace(".", r"\.")
