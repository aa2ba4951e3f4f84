"""The output dataset as a whole: what it is of, what it holds, its runs."""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import ChangedError, DatasetError, MissingError
from pipeline.records import Classes, CountCalibration
from pipeline.tables.layout import REPLACED, RUNS
from pipeline.tables.live import live_images
from pipeline.tables.runs import Run, all_runs, run_at
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.snapshot import Snapshot, take_snapshot
from pipeline.tables.spec import SPEC_NAME, DatasetSpec, read_spec, write_spec

T = TypeVar("T")

_TRIES = 10


class OutputDataset:
    """A dataset at a URI, existing or about to."""

    def __init__(self, uri: str, spec: DatasetSpec) -> None:
        self.uri = uri
        self.spec = spec
        self._kept: Snapshot | None = None

    @classmethod
    def open(cls, uri: str) -> "OutputDataset":
        """An existing dataset.

        Raises:
            DatasetError: there is none, or it is of another schema.
        """
        uri = storage.canonical(uri)
        spec = read_spec(uri)
        if spec is None:
            raise DatasetError(f"{uri} is not an output dataset: it has no dataset.json")
        return cls(uri, spec)

    @classmethod
    def accepting(cls, uri: str, spec: DatasetSpec, *, replace: bool = False) -> "OutputDataset":
        """The dataset that results of `spec` may be added to; nothing is written yet.

        Args:
            replace: results of another model or of other settings may take the place of those
                that are there.

        Raises:
            DatasetError: says in which way it holds something else, and what to do.
            StorageError: it can't be looked at, or written to.
        """
        uri = storage.canonical(uri)
        found = read_spec(uri)
        if found is None:
            _check_free(uri)
        else:
            fixed = "; ".join(found.layout_differences(spec))
            if fixed:
                raise DatasetError(f"{uri} has {fixed}: give another --output")
            differing = "; ".join(found.differences(spec))
            if differing and not replace:
                raise DatasetError(
                    f"{uri} holds the results of {differing}: give another --output, or --replace "
                    "(with --where for a part) to compute them anew"
                )
            # What was learned of counts on somebody's own images stays, also of results before.
            spec = spec.model_copy(update={"counts": spec.counts | found.counts})
        return cls(uri, spec)

    def create(self) -> None:
        """Write dataset.json, where it does not say the same already."""
        if read_spec(self.uri) != self.spec:
            write_spec(self.uri, self.spec)

    def calibrate(self, counts: Mapping[str, Mapping[int, CountCalibration]]) -> None:
        """Keep how counts relate to the truth, instead of what the model says of them.

        Args:
            counts: by `DatasetSpec.results`.
        """
        known = self.spec.counts | {results: dict(told) for results, told in counts.items()}
        self.spec = self.spec.model_copy(update={"counts": known})
        write_spec(self.uri, self.spec)

    @property
    def classes(self) -> Classes:
        return self.spec.classes

    def snapshot(self) -> Snapshot:
        """What counts at this moment."""
        return take_snapshot(self.uri, self.spec.partition_columns)

    def at_one_moment(self) -> "OutputDataset":
        """The same, for whoever reads image by image: listed once, and again if files are gone."""
        held = OutputDataset(self.uri, self.spec)
        held._kept = self.snapshot()
        return held

    def consistent(self, work: Callable[[Snapshot], T]) -> T:
        """What `work` makes of one snapshot, done again when the files change under it."""
        for attempt in range(_TRIES):
            try:
                return work(self._kept or self.snapshot())
            except ChangedError:
                self._kept = self._kept and self.snapshot()
                time.sleep(random.uniform(0.1, 0.5) * attempt)
        raise ChangedError(
            f"{self.uri} is changed faster than it can be read, or lacks files: try again later, "
            "or see what jobs.verify says"
        )

    def read(self, table: str, columns: list[str], where: pc.Expression | None = None) -> pa.Table:
        """Rows of a table that count, for what fits in memory."""
        schema = pa.schema([self.field(table, name) for name in columns])
        return self.consistent(
            lambda now: pa.Table.from_batches(now.scan(table, columns, where), schema)
        )

    def read_image(
        self,
        table: str,
        columns: list[str],
        image_id: str,
        shard: str,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of one image, from its shard alone, for what fits in memory.

        Args:
            shard: as its row of the images table names it.
        """
        schema = pa.schema([self.field(table, name) for name in columns])
        its = pc.field("image_id") == image_id
        its = its if where is None else its & where
        return self.consistent(
            lambda now: pa.Table.from_batches(
                now.around(image_id, shard).scan(table, columns, its), schema
            )
        )

    def field(self, table: str, name: str) -> pa.Field:
        """A column of a table, or of the partitions."""
        if name in self.spec.partition_columns:
            return pa.field(name, pa.string())
        return SCHEMAS[table].field(name)

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        return all_runs(self.uri)

    def results_of(self, run_id: str) -> str:
        """The `DatasetSpec.results` of what a run has computed; empty where that is lost."""
        try:
            return run_at(self.uri, run_id).spec.results
        except (DatasetError, MissingError):
            return ""

    def live(self, snapshot: Snapshot) -> Iterator[pa.RecordBatch]:
        """A row an image that has its result or its reject, of the LIVE schema."""
        return live_images(snapshot, self.runs())


def _check_free(uri: str) -> None:
    """What lies where a new dataset would be is nobody else's: its files come and go by name.

    A file in the way, or a folder that can't be written to, is told before any work as well.
    """
    taken = sorted({*SCHEMAS, RUNS, REPLACED} & set(storage.list_names(uri)))
    if taken:
        raise DatasetError(
            f"{uri} holds {taken[0]} and no dataset.json: no prediction wrote it, or its "
            "dataset.json is gone; give another --output"
        )
    if storage.is_local(uri):  # in a store, trying would write
        storage.check_writable(storage.join(uri, SPEC_NAME))
