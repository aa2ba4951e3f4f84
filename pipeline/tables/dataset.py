"""The output dataset as a whole: what it is of, what is done, and its tables.

A shard counts when its images file is there. Rows of shards that are being written, or were left
by a run that was killed, are not shown by this reader.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.records import Classes, ClassSpec, Shard, SourceImage
from pipeline.tables.schema import PLAN, SCHEMA_VERSION, SCHEMAS
from pipeline.tables.shard import discard_shard, to_parquet


class DatasetSpec(BaseModel):
    """dataset.json: what the dataset's rows were made with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    classes: tuple[ClassSpec, ...]
    model: str
    """Fingerprint of the model bundle."""
    settings: str
    """Fingerprint of the settings that change results."""
    partition_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One execution of a plan; it may take several attempts."""

    id: str
    uri: str


@dataclass(frozen=True)
class Done:
    """What needs no computing again: (uri, version) of committed images and rejects."""

    images: frozenset[tuple[str, str]]
    rejects: frozenset[tuple[str, str]]

    def __contains__(self, image: object) -> bool:
        if not isinstance(image, SourceImage):
            return False
        key = (image.uri, image.version)
        return key in self.images or key in self.rejects


class OutputDataset:
    """A dataset at a URI, existing or about to."""

    def __init__(self, uri: str, spec: DatasetSpec) -> None:
        self.uri = uri
        self.spec = spec

    @classmethod
    def open(cls, uri: str) -> "OutputDataset":
        """An existing dataset.

        Raises:
            DatasetError: there is none, or it is of another schema.
        """
        uri = storage.absolute(uri)
        spec = _read_spec(uri)
        if spec is None:
            raise DatasetError(f"{uri} is not an output dataset: it has no dataset.json")
        return cls(uri, spec)

    @classmethod
    def prepare(cls, uri: str, spec: DatasetSpec, *, create: bool) -> "OutputDataset":
        """The dataset that results of `spec` may be added to.

        Raises:
            DatasetError: it holds the results of another model or other settings.
        """
        uri = storage.absolute(uri)
        found = _read_spec(uri)
        if found is not None and found != spec:
            what = "another model" if found.model != spec.model else "other settings"
            raise DatasetError(
                f"{uri} holds the results of {what}; give another --output, or remove it"
            )
        if found is None and create:
            text = spec.model_dump_json(indent=2) + "\n"
            storage.write_bytes(storage.join(uri, "dataset.json"), text.encode())
        return cls(uri, spec)

    @property
    def classes(self) -> Classes:
        return self.spec.classes

    def committed_shards(self) -> set[str]:
        """Ids of the shards that count."""
        names = storage.list_names(storage.join(self.uri, "images"))
        return {PurePosixPath(name).stem for name in names if name.endswith(".parquet")}

    def done(self) -> Done:
        """What needs no computing again."""
        keys = {
            table: frozenset(
                key
                for batch in self.scan(table, ["uri", "version"])
                for key in zip(batch["uri"].to_pylist(), batch["version"].to_pylist(), strict=True)
            )
            for table in ("images", "rejects")
        }
        return Done(keys["images"], keys["rejects"])

    def scan(
        self, table: str, columns: list[str], where: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a table that count, in batches; the whole is never in memory."""
        committed = sorted(self.committed_shards())
        if not committed:
            return
        fs, root = storage.arrow_filesystem(self.uri)
        files = [f"{root.rstrip('/')}/{table}/{shard}.parquet" for shard in committed]
        source = pads.dataset(files, SCHEMAS[table], format="parquet", filesystem=fs)
        yield from source.to_batches(columns=columns, filter=where)

    def read(self, table: str, columns: list[str], where: pc.Expression | None = None) -> pa.Table:
        """`scan` as one table, for what fits in memory."""
        schema = pa.schema([SCHEMAS[table].field(name) for name in columns])
        return pa.Table.from_batches(self.scan(table, columns, where), schema)

    # Runs: a plan is kept until its summary says that it is finished.

    def new_run(self, shards: list[Shard], settings_yaml: str, about: dict[str, Any]) -> Run:
        """Keep a plan, with the settings that it runs with, before work begins."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        run = self._run(f"{stamp}-{uuid.uuid4().hex[:6]}")
        rows = [
            {"shard": shard.id, **{key: getattr(image, key) for key in PLAN.names[1:]}}
            for shard in shards
            for image in shard.images
        ]
        storage.write_bytes(storage.join(run.uri, "settings.yaml"), settings_yaml.encode())
        _write_json(storage.join(run.uri, "run.json"), about)
        plan = to_parquet(pa.Table.from_pylist(rows, PLAN))
        storage.write_bytes(storage.join(run.uri, "plan.parquet"), plan)  # last: the run exists
        return run

    def unfinished_runs(self) -> list[Run]:
        """Runs with a plan and no summary, oldest first."""
        runs = [self._run(name) for name in storage.list_names(storage.join(self.uri, "_runs"))]
        return [
            run
            for run in runs
            if storage.exists(storage.join(run.uri, "plan.parquet"))
            and not storage.exists(storage.join(run.uri, "summary.json"))
        ]

    def plan_of(self, run: Run) -> list[Shard]:
        """The shards of a run, in their order."""
        fs, path = storage.arrow_filesystem(storage.join(run.uri, "plan.parquet"))
        images: dict[str, list[SourceImage]] = {}
        for row in pq.read_table(path, filesystem=fs).to_pylist():
            images.setdefault(row.pop("shard"), []).append(SourceImage(**row))
        return [Shard(shard, tuple(members)) for shard, members in images.items()]

    def finish(self, run: Run, summary: dict[str, Any]) -> None:
        """Write a run's summary: its plan needs no going on with."""
        _write_json(storage.join(run.uri, "summary.json"), summary)

    def discard(self, shard: str) -> None:
        """Remove what a shard that will never be committed has written."""
        discard_shard(self.uri, shard)

    def _run(self, run_id: str) -> Run:
        return Run(run_id, storage.join(self.uri, "_runs", run_id))


def _read_spec(uri: str) -> DatasetSpec | None:
    path = storage.join(uri, "dataset.json")
    if not storage.exists(path):
        return None
    try:
        return DatasetSpec.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        raise DatasetError(f"{path} is not of this version: {error.errors()[0]['msg']}") from error


def _write_json(uri: str, value: dict[str, Any]) -> None:
    storage.write_bytes(uri, (json.dumps(value, indent=2) + "\n").encode())
