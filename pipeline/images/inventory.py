"""S3 Inventory: lists of a bucket's objects that S3 writes every day.

Either one data file with named columns (Parquet, or CSV with a header, keys as they are), or the
`manifest.json` of an inventory, whose CSV files have no header and keys quoted as in a URL. See
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ValidationError

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.lists import ListFile, as_sizes, as_text, open_list, without_blanks

_ARN = "arn:aws:s3:::"


class _File(BaseModel):
    key: str


class _Manifest(BaseModel):
    """What we need of manifest.json."""

    destinationBucket: str
    fileFormat: Literal["CSV", "Parquet", "ORC"]
    fileSchema: str
    files: tuple[_File, ...]


def is_inventory(names: Sequence[str]) -> bool:
    """Whether these are an inventory's columns: a bucket and a key, and no `uri`."""
    columns = _columns(names)
    return "uri" not in names and "bucket" in columns and "key" in columns


def open_inventory(uri: str) -> Callable[[], Iterator[ListFile]]:
    """The data files that a manifest.json names, opened one after the other.

    Raises:
        DataError: it is none, or of a format that can't be read.
    """
    try:
        manifest = _Manifest.model_validate_json(storage.read_bytes(uri))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{uri} is not the manifest.json of an S3 Inventory: "
            f"{where + ': ' if where else ''}{first['msg'].lower()}"
        ) from error
    if manifest.fileFormat == "ORC":
        raise DataError(f"{uri}: inventories in ORC can't be read; choose Parquet or CSV in S3")
    names = tuple(name.strip() for name in manifest.fileSchema.split(","))
    if manifest.fileFormat == "CSV" and not is_inventory(names):
        raise DataError(f"{uri}: fileSchema has no Bucket and Key, but {', '.join(names)}")

    def tables() -> Iterator[ListFile]:
        for file in manifest.files:
            path = _data_file(uri, manifest, file.key)
            if manifest.fileFormat == "CSV":
                yield ListFile(path, names, headless=True)
                continue
            table = open_list(path)
            if not is_inventory(table.names):
                raise DataError(f"{path} has no bucket and key, but {', '.join(table.names)}")
            yield table

    return tables


def read_inventory(tables: Iterable[ListFile]) -> Iterator[pa.RecordBatch]:
    """Columns uri, version and size of every object, of its newest version only.

    The version is null for objects without an ETag in the inventory.

    Raises:
        DataError: a file can't be read, or a column is of another type.
    """
    for table in tables:
        columns = _columns(table.names)
        wanted = ("bucket", "key", "size", "etag", "islatest", "isdeletemarker")
        first_row = 1
        for batch in table.batches([columns[name] for name in wanted if name in columns]):
            yield _objects(table, batch, columns, first_row)
            first_row += batch.num_rows


def _objects(
    table: ListFile, batch: pa.RecordBatch, columns: dict[str, str], first_row: int
) -> pa.RecordBatch:
    rows = batch.num_rows
    bucket = as_text(batch, columns["bucket"], table.uri)
    key = as_text(batch, columns["key"], table.uri)
    for name, column in (("bucket", bucket), ("key", key)):
        blank = pc.index(pc.fill_null(column, ""), "").as_py()
        if blank >= 0:
            raise DataError(f"{table.uri}: row {first_row + blank} has no {name}")
    if table.headless:
        key = pa.array([unquote_plus(text) for text in key.to_pylist()], pa.string())
    size = pa.array([-1] * rows, pa.int64())
    if "size" in columns:
        size = as_sizes(batch, columns["size"], table.uri, first_row)
    version = pa.nulls(rows, pa.string())
    if "etag" in columns:
        # As `storage` shows it; S3 quotes etags in listings, inventories mostly don't.
        version = pc.utf8_trim(as_text(batch, columns["etag"], table.uri), '"')
        version = without_blanks(version)
    keep = pc.and_(
        _flag(table, batch, columns.get("islatest"), True),
        pc.invert(_flag(table, batch, columns.get("isdeletemarker"), False)),
    )
    # As in a listing of ours: what begins with a dot is left out.
    keep = pc.and_(keep, pc.invert(pc.match_substring_regex(key, r"(^|/)\.")))
    uri = pc.binary_join_element_wise(pc.binary_join_element_wise("s3://", bucket, ""), key, "/")
    return pa.record_batch({"uri": uri, "version": version, "size": size}).filter(keep)


def _flag(table: ListFile, batch: pa.RecordBatch, name: str | None, default: bool) -> pa.Array:
    """A column of yes and no."""
    if name is None:
        return pa.array([default] * batch.num_rows)
    column = batch[name]
    if not pa.types.is_boolean(column.type):
        text = pc.utf8_lower(as_text(batch, name, table.uri))
        column = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.bool_()), pc.equal(text, "true"))
    return pc.fill_null(column, default)


def _columns(names: Sequence[str]) -> dict[str, str]:
    """`etag` → `e_tag` or `ETag`, whatever the file calls it."""
    return {name.lower().replace("_", ""): name for name in names}


def _data_file(uri: str, manifest: _Manifest, key: str) -> str:
    """Where a data file lies: in the bucket that S3 wrote to, or beside a local copy."""
    if "://" in uri:
        scheme = uri.partition("://")[0]
        return f"{scheme}://{manifest.destinationBucket.removeprefix(_ARN)}/{key}"
    folder = uri.rpartition("/")[0]
    # S3 writes CONFIG/DATE/manifest.json and CONFIG/data/NAME.
    beside = storage.join(folder.rpartition("/")[0], "data", storage.name_of(key))
    return beside if storage.exists(beside) else storage.join(folder, storage.name_of(key))
