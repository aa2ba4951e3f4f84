"""Every annotated image read once: its facts, or what is wrong with it.

An image that can't be read becomes a problem in its row and never stops the graph: a user wants
to know of all that is wrong at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data

from pipeline.config import TrainSettings
from pipeline.distributed import samples
from pipeline.distributed.session import Resources, data_context
from pipeline.errors import TesseraError
from pipeline.labels import FORMATS, AnnotatedData, read_sample
from pipeline.records import AnnotatedImage, Classes, Problem, Remark, Sample
from pipeline.survey.configure import Configuration, configure
from pipeline.survey.facts import ImageFacts, measure_image
from pipeline.survey.fingerprint import DataFingerprint
from pipeline.survey.problems import Findings, find_problems
from pipeline.survey.recipes import Hardware

_READ_TOGETHER = 8  # images whose pixels are held at once, beside what the object store has
_MOST_A_TASK = 64  # images; so that progress shows
_TASKS_A_CORE = 4  # at least: the last ones leave few cores without work
READ_CPUS = 0.25
"""Of a task that reads images. Training leaves as much of each node free: what a node has read and
lost is read again while the workers hold the rest."""

_COUNTS = pa.list_(pa.int64())
_FACTS = pa.struct(
    [
        ("name", pa.string()),
        ("split", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("channels", pa.int64()),
        ("dtype", pa.string()),
        ("colour", pa.bool_()),
        ("levels", pa.list_(pa.float64())),
        ("contrast", pa.float64()),
        ("class_pixels", _COUNTS),
        ("class_edges", _COUNTS),
        ("class_objects", _COUNTS),
        ("stray", pa.int64()),
        ("void_pixels", pa.int64()),
        ("touching", pa.int64()),
        ("overlapping", pa.int64()),
        ("diameters", _COUNTS),
        ("cells", _COUNTS),
        ("class_cells", pa.list_(_COUNTS)),
        ("object_cells", _COUNTS),
        ("class_above", _COUNTS),
        ("class_below", _COUNTS),
        ("content", pa.string()),
        ("decoded_bytes", pa.int64()),
        ("remarks", pa.list_(pa.struct([("what", pa.string()), ("times", pa.int64())]))),
    ]
)
_PROBLEM = pa.struct([("where", pa.string()), ("what", pa.string())])
_SURVEY = (pa.field("facts", _FACTS), pa.field("problem", _PROBLEM))
_SCHEMA = pa.schema([*samples.SCHEMA, *_SURVEY])


@dataclass(frozen=True)
class Survey:
    """All annotated images as they were found."""

    data: AnnotatedData
    facts: tuple[ImageFacts, ...]
    """Of each image that could be read, in the order of splits and names."""
    findings: Findings
    fingerprint: DataFingerprint

    @property
    def can_configure(self) -> bool:
        """Whether there is anything to choose by."""
        return self.fingerprint.split("train").images > 0

    def configure(
        self, settings: TrainSettings, workers: int, resources: Resources
    ) -> Configuration:
        """Every setting, chosen where the user left it open."""
        import torch  # takes seconds, and those who only read images need none of it

        from pipeline.predicting.engine import pick_dtype

        cpu = pick_dtype(settings.precision, torch.device("cpu"))  # those of this machine
        hardware = Hardware(
            resources.largest_node_cpus,
            resources.gpus,
            resources.largest_node_memory,
            workers,
            bfloat16=cpu == torch.bfloat16,
        )
        return configure(settings, self.data, self.fingerprint, hardware)


def survey(
    data: AnnotatedData,
    channels: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    splits: Sequence[str] | None = None,
) -> Survey:
    """Read all images once, and keep what they say.

    Args:
        data: whose images are read, in Ray Data tasks.
        channels: that the network is to take, where a setting says so.
        on_progress: called with how many images are done, of how many.
        splits: only these; by default all.
    """
    images = [image for image in data.images if splits is None or image.split in splits]
    rows = read_images(data, images, keep_pixels=False) if images else None
    parts: list[pa.Table] = []
    done = 0
    for table in rows.iter_batches(batch_size=None, batch_format="pyarrow") if rows else ():
        parts.append(table)
        done += len(table)
        on_progress(done, len(images))
    return summarise(data, images, parts, channels)


def read_again(data: AnnotatedData, picks: Sequence[ImageFacts]) -> list[Sample]:
    """A few of the surveyed images, decoded here, to look at."""
    by_name = {(image.split, image.name): image for image in data.images}
    return [read_sample(by_name[p.split, p.name], data.classes, data.void) for p in picks]


def read_images(
    data: AnnotatedData, images: Sequence[AnnotatedImage], *, keep_pixels: bool
) -> ray.data.Dataset:
    """A lazy graph that decodes images with their labels, and measures them in the same pass.

    Its rows have the columns of `samples.SCHEMA` (with `keep_pixels`), the facts, and the problem
    of an image that could not be read, all else in whose row is null.
    """
    data_context()
    # Attributes are not needed to read, and an empty mapping is not a type that Arrow knows.
    items = [{"image": _without(asdict(image), "attributes")} for image in images]
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    # Ray Data looks ten times a second for what is done: small tasks would wait longer than work.
    blocks = min(len(items), max(-(-len(items) // _MOST_A_TASK), _TASKS_A_CORE * cores))
    listed = ray.data.from_items(items, override_num_blocks=blocks)
    return listed.map_batches(
        partial(_read, classes=data.classes, void=data.void, keep_pixels=keep_pixels),
        batch_size=_READ_TOGETHER,
        batch_format="pyarrow",
        num_cpus=READ_CPUS,
        concurrency=min(blocks, cores),
    )


def summarise(
    data: AnnotatedData,
    images: Sequence[AnnotatedImage],
    tables: Iterable[pa.Table],
    channels: int | None,
) -> Survey:
    """The survey that the rows of `read_images` make."""
    facts, problems = [], list(data.problems)
    for table in tables:
        facts += [_to_facts(row) for row in table["facts"].to_pylist() if row is not None]
        problems += [Problem(**row) for row in table["problem"].to_pylist() if row is not None]
    facts.sort(key=lambda one: (one.split, one.name))
    problems.sort(key=str)
    splits = [image.split for image in images]
    void = data.void if "void" in FORMATS[data.format].settings else None
    findings = find_problems(
        data.uri, splits, facts, problems, data.classes, channels, void, data.notes
    )
    return Survey(data, tuple(facts), findings, DataFingerprint.of(facts, data.classes))


def _read(batch: pa.Table, classes: Classes, void: int, keep_pixels: bool) -> pa.Table:
    good: list[Sample] = []
    facts, problems = [], []
    for item in batch["image"].to_pylist():
        image = AnnotatedImage(**{**item, "attributes": {}})
        try:
            sample = read_sample(image, classes, void)
        except TesseraError as error:
            problems.append({"name": image.name, "problem": asdict(_problem(image, str(error)))})
            continue
        facts.append(asdict(measure_image(sample, image.split, classes)))
        good.append(sample)
    kept = samples.to_table(good if keep_pixels else [])
    if not keep_pixels:
        kept = pa.Table.from_pylist([{"name": one.name} for one in good], samples.SCHEMA)
    kept = kept.append_column(_SURVEY[0], pa.array(facts, _FACTS))
    kept = kept.append_column(_SURVEY[1], pa.nulls(len(good), _PROBLEM))
    return pa.concat_tables([kept, pa.Table.from_pylist(problems, _SCHEMA)])


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def _to_facts(row: dict[str, Any]) -> ImageFacts:
    """Arrow gives lists where the record has tuples, and dicts where it has records."""
    remarks = tuple(Remark(**one) for one in row["remarks"])
    values = {name: _as_tuple(value) for name, value in _without(row, "remarks").items()}
    return ImageFacts(**values, remarks=remarks)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


def _problem(image: AnnotatedImage, line: str) -> Problem:
    """A line that begins with one of the image's files is about that file."""
    for uri in (image.image_uri, image.instances_uri, image.semantic_uri):
        if uri and line.startswith(f"{uri} "):
            return Problem(uri, line.removeprefix(f"{uri} "))
    return Problem(f"{image.name}:", line)
