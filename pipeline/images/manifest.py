"""A manifest: a table of URIs that somebody wrote."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import DataError
from pipeline.images.lists import ListFile, as_sizes, as_text, without_blanks
from pipeline.images.partitions import PartitionSpec

_PLAIN = r"(?s)^(s3|gs|abfs)://.*[^/]$"
"""A URI that is whole, and has one spelling."""


def read_manifest(table: ListFile, partitions: PartitionSpec) -> Iterator[pa.RecordBatch]:
    """Columns uri, version and size, and those that partitions come from.

    The version is null where the manifest says none.

    Raises:
        DataError: a row has no URI, or a column is of another type.
    """
    known = [name for name in ("version", "size") if name in table.names]
    own = [name for name in partitions.from_manifest if name not in known]
    first_row = 1
    for batch in table.batches(["uri", *known, *own]):
        uris = _resolved(table, batch, first_row)
        size = pa.array([-1] * len(uris), pa.int64())
        if "size" in known:
            size = as_sizes(batch, "size", table.uri, first_row)
        version = pa.nulls(len(uris), pa.string())
        if "version" in known:
            version = as_text(batch, "version", table.uri)
            version = without_blanks(version)
        columns = {"uri": uris, "version": version, "size": size}
        yield pa.record_batch(columns | {name: batch[name] for name in own})
        first_row += len(uris)


def _resolved(table: ListFile, batch: pa.RecordBatch, first_row: int) -> pa.Array:
    """The URIs, whole and in one spelling: relative ones are meant from the manifest's folder."""
    uris = pc.utf8_trim_whitespace(pc.fill_null(as_text(batch, "uri", table.uri), ""))
    blank = pc.index(uris, "").as_py()
    if blank >= 0:
        raise DataError(f"{table.uri}: row {first_row + blank} has no uri")
    folder = table.uri.rpartition("/")[0]
    if pc.all(pc.match_substring_regex(uris, _PLAIN)).as_py():
        return uris
    whole = [storage.canonical(storage.resolve(uri, folder)) for uri in uris.to_pylist()]
    return pa.array(whole, pa.string())
