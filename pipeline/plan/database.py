"""DuckDB for planning: tables that need not fit in memory, fed by Arrow alone.

It opens no file but its own temporary ones, so an expression from the settings can't either.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator

import duckdb
import pyarrow as pa

from pipeline.cores import granted_cores
from pipeline.errors import StorageError

MEMORY = "768MB"
"""What DuckDB keeps of its tables in memory; beside it there are Arrow's batches, and Python."""


class Database:
    """An empty database with its files in a folder."""

    def __init__(self, folder: str) -> None:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "threads": granted_cores(),
            "memory_limit": MEMORY,
            "temp_directory": f"{folder}/spilled",
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
        self.connection = duckdb.connect(f"{folder}/plan.duckdb", config=settings)
        # Last, since DuckDB takes no place for its temporary files once its files are closed off.
        self.run("set enable_external_access = false")
        self.run("set lock_configuration = true")

    def run(self, query: str) -> None:
        """A statement without an answer worth having."""
        self.connection.execute(query).fetchall()

    def numbers(self, query: str) -> tuple[int, ...]:
        """The one row of an answer."""
        (row,) = self.connection.execute(query).fetchall()
        return tuple(row)

    def stream(self, query: str, rows: int) -> Iterator[pa.RecordBatch]:
        """An answer in batches of about so many rows; never whole in memory."""
        yield from self.connection.sql(query).to_arrow_reader(rows)

    @contextlib.contextmanager
    def incoming(
        self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> Iterator[None]:
        """Batches as a table of that name, which one query can walk through once.

        What the batches' own source raises comes out as it is.
        """
        failures: list[BaseException] = []

        def checked() -> Iterator[pa.RecordBatch]:
            try:
                for batch in batches:
                    yield batch.select(schema.names).cast(schema)
            except BaseException as error:
                failures.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(schema, checked())
        self.connection.register(name, reader)
        try:
            yield
        except BaseException:
            if failures:
                raise failures[0] from None
            raise
        finally:
            self.connection.unregister(name)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """A folder for a plan, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tessera-plan-") as folder:
        yield folder


@contextlib.contextmanager
def open_database(folder: str) -> Iterator[Database]:
    """A database below a folder; its files and its memory are free again afterwards.

    Raises:
        StorageError: there is no room for its tables.
    """
    with tempfile.TemporaryDirectory(prefix="database-", dir=folder) as own:
        database = Database(own)
        try:
            yield database
        except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
            reason = str(error).splitlines()[0]
            raise StorageError(
                f"planning ran out of memory, or of room for its temporary files in {folder} "
                f"(TMPDIR says where they lie): {reason}"
            ) from error
        finally:
            database.connection.close()
