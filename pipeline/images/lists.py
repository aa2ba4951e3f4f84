"""Files that list images: Parquet or CSV, read as Arrow batches, never whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import DataError

BATCH_ROWS = 50_000
"""Images in a batch, about."""
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class ListFile:
    """One file of a listing, and the names of its columns."""

    uri: str
    names: tuple[str, ...]
    headless: bool = False
    """A CSV whose first line is a row: `names` come from elsewhere."""

    def require(self, *names: str) -> None:
        """Raises DataError where a column is not there."""
        for name in names:
            if name not in self.names:
                raise DataError(
                    f"{self.uri} has no column named {name}, but {', '.join(self.names)}"
                )

    def batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        """These columns; those of a CSV as strings.

        Raises:
            DataError: it is no such file.
            StorageError: it can't be read.
        """
        with _reading(self.uri):
            if _is_parquet(self.uri):
                with _open_parquet(self.uri) as file:
                    yield from file.iter_batches(BATCH_ROWS, columns=names)
            else:
                with _open_csv(self.uri, self.names, self.headless, names) as file:
                    yield from file


def open_list(uri: str) -> ListFile:
    """A Parquet file, or a CSV with a header, plain or gzipped.

    Raises:
        DataError: it is none, or not there.
        StorageError: it can't be read.
    """
    if not storage.exists(uri):
        raise DataError(f"{uri} does not exist")
    try:
        with _reading(uri):
            if _is_parquet(uri):
                with _open_parquet(uri) as file:
                    return ListFile(uri, tuple(file.schema_arrow.names))
            with _open_csv(uri) as file:
                return ListFile(uri, tuple(file.schema.names))
    except DataError as error:
        if storage.list_names(uri):  # as Spark writes a table
            raise DataError(f"{uri} is a folder, and a manifest one file") from error
        raise


def as_text(batch: pa.RecordBatch, name: str, uri: str) -> pa.Array:
    """A column as strings.

    Raises:
        DataError: it has values that are no text.
    """
    column = batch[name]
    try:
        text = column.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowException as error:
        raise DataError(f"{uri}: column {name} is not text but {column.type}") from error


def as_sizes(batch: pa.RecordBatch, name: str, uri: str, first_row: int) -> pa.Array:
    """A column as whole numbers, -1 where it says nothing.

    Args:
        first_row: number of the batch's first row, for the error's sake.

    Raises:
        DataError: the first value that is no whole number.
    """
    column = batch[name]
    try:
        return pc.fill_null(_whole_numbers(column), -1)
    except pa.ArrowException as error:
        for row in range(len(column)):
            try:
                _whole_numbers(column[row : row + 1])
            except pa.ArrowException:
                where = f"row {first_row + row}, column {name}"
                raise DataError(
                    f"{uri}: {where}: {column[row].as_py()!r} is no whole number"
                ) from error
        raise DataError(f"{uri}: column {name} is not of whole numbers") from error


def without_blanks(text: pa.Array) -> pa.Array:
    """Null where there is no text, as CSV has it."""
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _whole_numbers(column: pa.Array) -> pa.Array:
    if pa.types.is_string(column.type):
        column = without_blanks(pc.utf8_trim_whitespace(column))
    return column.cast(pa.int64())


def _is_parquet(uri: str) -> bool:
    return uri.lower().endswith(".parquet")


def _open_parquet(uri: str) -> pq.ParquetFile:
    fs, path = storage.arrow_filesystem(uri)
    return pq.ParquetFile(fs.open_input_file(path), buffer_size=_BLOCK_BYTES, pre_buffer=False)


def _open_csv(
    uri: str,
    names: tuple[str, ...] = (),
    headless: bool = False,
    wanted: list[str] | None = None,
) -> Any:
    fs, path = storage.arrow_filesystem(uri)
    return pyarrow.csv.open_csv(
        fs.open_input_stream(path),
        pyarrow.csv.ReadOptions(
            block_size=_BLOCK_BYTES, column_names=list(names) if headless else None
        ),
        # Quoted fields may hold line ends, since keys of objects may.
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, include_columns=wanted
        ),
    )


@contextmanager
def _reading(uri: str) -> Iterator[None]:
    """What reading a file raises, as one line that names it."""
    with storage.named(uri, "read"):
        try:
            yield
        except UnicodeDecodeError as error:
            raise DataError(f"{uri} is not text in UTF-8") from error
        except (pa.ArrowException, OSError) as error:
            if not storage.of_content(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{uri} is not a readable manifest: {reason}") from error
