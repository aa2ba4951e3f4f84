"""What there is to predict: images below a prefix, or listed in a manifest.

A manifest is Parquet or CSV with a `uri` column, and optionally `version` and `size`, which spare
looking every file up. URIs that are relative are meant from the manifest's own folder.
"""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.reader import FORMATS
from pipeline.records import SourceImage

MISSING = "missing"
"""The version of a listed image that is not there; reading it will say so."""


@dataclass(frozen=True)
class Collection:
    """The images of an input, each once, in the order of their URIs."""

    uri: str
    images: tuple[SourceImage, ...]
    ignored: int
    """Files that no image suffix names."""
    repeated: int
    """Lines of a manifest that name an image again."""


def list_collection(uri: str) -> Collection:
    """List a prefix, a single image, or a manifest.

    Raises:
        StorageError: it can't be listed.
        DataError: the manifest can't be read or has no uri column.
    """
    uri = storage.absolute(uri)
    if PurePosixPath(uri).suffix.lower() in (".parquet", ".csv"):
        return _from_manifest(uri)
    if not storage.exists(uri):
        raise DataError(f"{uri} does not exist")
    files = list(storage.list_files(uri))
    images = [f for f in files if PurePosixPath(f.uri).suffix.lower() in FORMATS]
    return Collection(uri, _identified(images), len(files) - len(images), 0)


def image_identity(uri: str, version: str) -> str:
    """The image_id: a hash of (uri, version), so the same in every run and process."""
    return hashlib.blake2b(f"{uri}\0{version}".encode(), digest_size=12).hexdigest()


def _identified(files: Iterable[storage.StoredFile]) -> tuple[SourceImage, ...]:
    return tuple(
        SourceImage(image_identity(f.uri, f.version), f.uri, f.version, f.size)
        for f in sorted(files, key=lambda f: f.uri)
    )


def _from_manifest(uri: str) -> Collection:
    table = _read_table(uri)
    if "uri" not in table.column_names:
        raise DataError(f"{uri} has no column named uri, but {', '.join(table.column_names)}")
    folder = uri.rpartition("/")[0]
    named = [str(value or "").strip() for value in table["uri"].to_pylist()]
    if "" in named:
        raise DataError(f"{uri}: row {named.index('') + 1} has no uri")
    uris = [_resolve(value, folder) for value in named]
    first = {value: row for row, value in reversed(list(enumerate(uris)))}
    files = _listed_files(table, first) or _looked_up(list(first))
    return Collection(uri, _identified(files), 0, len(uris) - len(first))


def _read_table(uri: str) -> pa.Table:
    data = storage.read_bytes(uri)
    try:
        if uri.lower().endswith(".csv"):
            return pyarrow.csv.read_csv(io.BytesIO(data))
        return pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{uri} is not a readable manifest: {reason}") from error


def _resolve(value: str, folder: str) -> str:
    is_absolute = "://" in value or value.startswith(("/", "~"))
    return storage.absolute(value if is_absolute else f"{folder}/{value}")


def _listed_files(table: pa.Table, rows: dict[str, int]) -> list[storage.StoredFile]:
    """What the manifest itself says of its files; empty when it doesn't say their versions."""
    if "version" not in table.column_names:
        return []
    versions = table["version"].to_pylist()
    sizes = table["size"].to_pylist() if "size" in table.column_names else [None] * len(versions)
    return [
        storage.StoredFile(uri, int(-1 if (n := sizes[row]) is None else n), str(versions[row]))
        for uri, row in rows.items()
    ]


def _looked_up(uris: list[str]) -> list[storage.StoredFile]:
    found = storage.stat_many(uris)
    return [
        file or storage.StoredFile(uri, -1, MISSING) for uri, file in zip(uris, found, strict=True)
    ]
