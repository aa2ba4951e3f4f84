"""Runs: the plan that is kept, the attempts at it, and the story that they leave.

_runs/<run>/plan/00000.parquet …   a row an image, the rows of a shard in one file
_runs/<run>/gone/00000.parquet …   likewise, of images whose rows are taken out
_runs/<run>/settings.yaml          as run
_runs/<run>/run.json               written last: now the run exists
_runs/<run>/poison.json            images that ended the process that worked on them
_runs/<run>/attempts/<n>.json      what each attempt did, but for those that were killed
_runs/<run>/parts/                 what there is of shards with large images (`pipeline.large`)
_runs/<run>/summary.json           the run is finished
"""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.records import RowKey, Shard, SourceImage
from pipeline.tables.files import batches_of_parquet, to_parquet
from pipeline.tables.layout import RUNS
from pipeline.tables.schema import PLAN

PARTS = "parts"
"""Folder of a run where parts of large images lie until their shard is committed."""
PLANNED, GONE = "plan", "gone"
"""Folders of a run: the images that it works on, and those whose rows it takes out."""
_STAMP = "%Y%m%dT%H%M%S%fZ"
"""Of a time, to the microsecond: of two runs in one second, too, it is known which came later."""
_PART_ROWS = 1_000_000  # about 60 MB as a file, and 200 in memory


Renewal = Literal["nothing", "rejects", "all"]
"""What of the images that were done a run was asked to do again."""


def covers(renewed: Renewal, asked: Renewal) -> bool:
    """Whether who has done the one again has done the other."""
    order: tuple[Renewal, ...] = get_args(Renewal)
    return order.index(renewed) >= order.index(asked)


def _as_renewal(value: object) -> object:
    """Runs of before said only whether: as then, they stand for either."""
    return {True: "all", False: "nothing"}[value] if isinstance(value, bool) else value


class RunSpec(BaseModel):
    """run.json: what a run is of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """predict, compact, sweep, repair or prune."""
    results: str
    """Fingerprint of what decides the rows (`DatasetSpec.results`)."""
    input: str = ""
    where: str | None = None
    renews: Annotated[Renewal, BeforeValidator(_as_renewal)] = "nothing"
    model: str = ""
    """URI of the bundle."""
    images: int
    shards: int

    def is_of(self, collection: str) -> bool:
        """Whether it is of the input with this canonical URI, however that was spelled."""
        return bool(self.input) and storage.canonical(self.input) == collection


@dataclass(frozen=True)
class Run:
    """One plan and its execution, which may take several attempts."""

    id: str
    uri: str
    parts: int
    """Files of the plan."""
    finished: bool
    """When it was looked at."""
    gone_parts: int = 0
    """Files of images whose rows are taken out."""

    @property
    def spec(self) -> RunSpec:
        """What it is of.

        Raises:
            DatasetError: run.json is damaged.
        """
        path = storage.join(self.uri, "run.json")
        try:
            return RunSpec.model_validate_json(storage.read_bytes(path))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise DatasetError(f"{path} is not of this version: {reason}") from error

    @property
    def completed(self) -> bool:
        """All that it planned was done: it was neither interrupted nor superseded."""
        return self.finished and self.summary().get("ended_by", "done") == "done"

    def plan(self) -> Iterator[pa.RecordBatch]:
        """The planned images, in batches of whole files.

        Raises:
            DatasetError: a file is damaged.
        """
        yield from self._images(PLANNED, self.parts)

    def gone(self) -> Iterator[pa.RecordBatch]:
        """The images whose rows it takes out, likewise."""
        yield from self._images(GONE, self.gone_parts)

    def _images(self, folder: str, parts: int) -> Iterator[pa.RecordBatch]:
        for part in range(parts):
            path = storage.join(self.uri, folder, f"{part:05d}.parquet")
            data = storage.read_bytes(path)
            try:
                yield from batches_of_parquet(data)
            except DatasetError as error:
                raise DatasetError(
                    f"{path} is damaged: remove {self.uri}; what that run has committed stays, "
                    "and what it has not is planned again"
                ) from error

    def poison(self) -> dict[str, tuple[str, str]]:
        """Image id → code and message of what it does to the process that works on it."""
        path = storage.join(self.uri, "poison.json")
        if not storage.exists(path):
            return {}
        found: Mapping[str, list[str]] = json.loads(storage.read_bytes(path))
        return {image: (code, message) for image, (code, message) in found.items()}

    def keep_poison(self, poison: Mapping[str, tuple[str, str]]) -> None:
        """So that whoever goes on need not find out again."""
        write_json(storage.join(self.uri, "poison.json"), dict(poison))

    def attempts(self) -> list[dict[str, Any]]:
        """What earlier attempts told of themselves."""
        folder = storage.join(self.uri, "attempts")
        return [read_json(storage.join(folder, name)) for name in storage.list_names(folder)]

    def add_attempt(self, story: Mapping[str, Any]) -> None:
        """Tell of this attempt."""
        stamp = datetime.now(UTC).strftime(_STAMP)
        write_json(storage.join(self.uri, "attempts", f"{stamp}.json"), story)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: the plan needs no going on with, nor what there is of its shards."""
        storage.remove_folder(storage.join(self.uri, PARTS))
        write_json(storage.join(self.uri, "summary.json"), summary)

    def close(self, by: str) -> None:
        """End it undone: the plan may name shards that are about to go, and what it has not done
        is planned anew.
        """
        self.finish({"run": self.id, "ended_by": f"superseded by {by}"})

    def summary(self) -> dict[str, Any]:
        """Of a finished run."""
        return read_json(storage.join(self.uri, "summary.json"))


def new_run(
    dataset: str,
    images: Iterable[pa.RecordBatch],
    settings_yaml: str,
    check: Callable[[], None],
    *,
    folder: str = PLANNED,
    **about: Any,
) -> Run:
    """Keep a plan, with the settings that it runs with, before work begins.

    Args:
        images: rows of PLAN.
        check: raises when this process may not write any more: an old plan that comes after what
            another run has done would be gone on with, and do it twice.
        folder: what they are: to be worked on, or gone.
        about: for the `RunSpec`.
    """
    run_id = f"{_next_stamp(dataset)}-{uuid.uuid4().hex[:6]}"
    uri = storage.join(dataset, RUNS, run_id)
    storage.write_bytes(storage.join(uri, "settings.yaml"), settings_yaml.encode())
    parts = rows = shards = 0
    for part in _parts(images):
        name = f"{parts:05d}.parquet"
        storage.write_bytes(storage.join(uri, folder, name), to_parquet(part))
        parts, rows = parts + 1, rows + part.num_rows
        shards += len(part["shard"].unique())
    spec = RunSpec(images=rows, shards=shards, **about)
    text = spec.model_dump_json(indent=2) + "\n"
    storage.write_bytes(storage.join(uri, "run.json"), text.encode(), check)
    planned, gone = (parts, 0) if folder == PLANNED else (0, parts)
    return Run(run_id, uri, planned, finished=False, gone_parts=gone)


def _next_stamp(dataset: str) -> str:
    """The time, or just behind that of the newest run, if its writer's clock is ahead of ours.

    So the order of ids is that in which runs held the lease, whatever the clocks say.
    """
    now = datetime.now(UTC)
    for name in storage.list_names(storage.join(dataset, RUNS)):
        with contextlib.suppress(ValueError):  # somebody else's file
            then = datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC)
            now = max(now, then + timedelta(microseconds=1))
    return now.strftime(_STAMP)


def all_runs(dataset: str) -> list[Run]:
    """Every run that has its plan, oldest first."""
    root = storage.join(dataset, RUNS)
    files: dict[str, list[str]] = {}
    for path in storage.list_paths(root):  # one listing, however many runs there have been
        run_id, _, name = path.partition("/")
        files.setdefault(run_id, []).append(name)
    return [
        Run(
            run_id,
            storage.join(root, run_id),
            parts=sum(name.startswith(f"{PLANNED}/") for name in names),
            finished="summary.json" in names,
            gone_parts=sum(name.startswith(f"{GONE}/") for name in names),
        )
        for run_id, names in sorted(files.items())
        if "run.json" in names
    ]


def run_at(dataset: str, run_id: str) -> Run:
    """A run whose `spec` is asked for, and not its plan."""
    return Run(run_id, storage.join(dataset, RUNS, run_id), parts=0, finished=False)


def shards_of(plan: Iterable[pa.RecordBatch]) -> Iterator[Shard]:
    """Rows of a plan → its shards, one after another."""
    shard, partition = "", ""
    images: list[SourceImage] = []
    for batch in plan:
        for row in batch.to_pylist():
            if row["shard"] != shard and images:
                yield Shard(shard, tuple(images), partition)
                images = []
            shard, partition = row["shard"], row["partition"]
            images.append(_source(row))
    if images:
        yield Shard(shard, tuple(images), partition)


def _source(row: Mapping[str, Any]) -> SourceImage:
    old = row["old_shard"]
    replaces = None if old is None else RowKey(old, row["old_image"])
    return SourceImage(row["image_id"], row["uri"], row["version"], row["size"], replaces)


def _parts(plan: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of about `_PART_ROWS`, cut between shards."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in plan:
        waiting.append(batch)
        rows += batch.num_rows
        if rows < _PART_ROWS:
            continue
        table = pa.Table.from_batches(waiting, PLAN)
        last = table["shard"].index(table["shard"][-1]).as_py()
        if last:
            yield table.slice(0, last)
        waiting = table.slice(last).combine_chunks().to_batches()
        rows = table.num_rows - last
    if rows:
        yield pa.Table.from_batches(waiting, PLAN)


def write_json(uri: str, value: Mapping[str, Any]) -> None:
    """A JSON object, for people as well."""
    storage.write_bytes(uri, (json.dumps(value, indent=2) + "\n").encode())


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        value = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise DatasetError(f"{uri} is not valid JSON") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{uri} holds no JSON object")
    return value
