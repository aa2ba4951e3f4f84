"""An output dataset held against annotated images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, DatasetError
from pipeline.evaluation.pairing import predicted_rows
from pipeline.labels import AnnotatedData, read_label
from pipeline.labels.base import first_few
from pipeline.metrics import confusion
from pipeline.metrics.figures import Figures, summarize
from pipeline.metrics.judging import JudgedObjects, any_true, judge_objects
from pipeline.metrics.true_counts import calibrate_counts
from pipeline.records import AnnotatedImage, Classes, Segmentation, thing_ids
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import hold_lease
from pipeline.tables.masks import decode_tiles
from pipeline.tables.whole_objects import WHOLE_COLUMNS, whole_object


@dataclass(frozen=True)
class _Compared:
    """What one image contributes."""

    image: AnnotatedImage
    objects: JudgedObjects
    pixels: NDArray[np.int64]
    """(256, 256) confusion matrix."""
    results: str
    """What it was predicted with, see `DatasetSpec.results`."""
    uncounted: bool
    """Its label has pixels of things, but no objects."""


def evaluate(
    dataset: OutputDataset,
    data: AnnotatedData,
    *,
    split: str | None = None,
    by: str | None = None,
    calibrate: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Figures]:
    """Figures of all images together, then, with `by`, of each value of that manifest column.

    A prediction belongs to the annotated image that it was made of, or else to the one whose name,
    or whose file's name, is its file's name without suffix.

    Args:
        calibrate: from now on the dataset's counts are told with the error that they have here.

    Raises:
        DataError: an annotated image has no prediction, or several, or differs in size; or there
            are too few images to tell the error of counts from.
        DataProblems: with a line for each thing that is wrong with the annotated data.
        DatasetError: the classes are not those that the model knows.
        LeaseError: counts are to be calibrated, and a run is writing to the dataset.
    """
    images = [image for image in data.check().images if split in (None, image.split)]
    if not images:
        raise DataError(f"{data.uri} has no image of the split {split}")
    if by is not None and not all(by in image.attributes for image in images):
        raise DataError(f"the manifest of {data.uri} has no column {by}")
    _check_classes(dataset, data)
    dataset = dataset.at_one_moment()
    rows = predicted_rows(dataset, images)
    results_of = cache(dataset.results_of)
    compared = []
    for image in images:
        row = rows[image.name]
        compared.append(_compare(dataset, data, image, row, results_of(row["run"])))
        on_progress(len(compared), len(images))
    counted = _counted(data, compared)
    if calibrate:
        _keep_counts(dataset.uri, compared, counted)
    figures = [_figures("all", compared, data.classes, counted)]
    if by is not None:
        for value in sorted({image.attributes[by] for image in images}):
            members = [one for one in compared if one.image.attributes[by] == value]
            figures.append(_figures(value, members, data.classes, counted))
    return figures


def _counted(data: AnnotatedData, compared: list[_Compared]) -> list[int]:
    """The classes whose objects can be judged: none where labels are class maps alone.

    Raises:
        DataError: some labels tell the objects that their pixels belong to, and others don't.
    """
    uncounted = [one.image.name for one in compared if one.uncounted]
    if not uncounted:
        return thing_ids(data.classes)
    if any_true(one.objects for one in compared):
        raise DataError(
            f"{data.uri} has pixels of things but no objects in {first_few(uncounted)}, where "
            "other images have objects: their maps are missing or empty"
        )
    return []


def _keep_counts(uri: str, compared: Iterable[_Compared], class_ids: Sequence[int]) -> None:
    """Of each model and its settings, as far as images that it has predicted tell."""
    alike: dict[str, list[JudgedObjects]] = {}
    for one in compared:
        alike.setdefault(one.results, []).append(one.objects)
    told = {results: calibrate_counts(images, class_ids) for results, images in alike.items()}
    known = {results: counts for results, counts in told.items() if results and counts}
    if not known:
        raise DataError("the error of counts can't be told: it takes two images with objects")
    with hold_lease(uri, "jobs.evaluate"):
        OutputDataset.open(uri).calibrate(known)


def _check_classes(dataset: OutputDataset, data: AnnotatedData) -> None:
    predicted = {(spec.id, spec.kind) for spec in dataset.classes}
    annotated = {(spec.id, spec.kind) for spec in data.classes}
    if predicted != annotated:
        raise DatasetError(
            f"{dataset.uri} has the classes {_names(dataset.classes)}, "
            f"{data.uri} the classes {_names(data.classes)}"
        )
    ids = {spec.name.casefold(): spec.id for spec in dataset.classes}
    for spec in data.classes:
        other = ids.get(spec.name.casefold(), spec.id)
        if other != spec.id:
            raise DatasetError(
                f"{spec.name} is class {other} in {dataset.uri} and {spec.id} in {data.uri}: their "
                "lists of classes have other orders"
            )


def _names(classes: Classes) -> str:
    return ", ".join(f"{spec.id} {spec.name} ({spec.kind})" for spec in classes)


def _compare(
    dataset: OutputDataset,
    data: AnnotatedData,
    image: AnnotatedImage,
    row: Mapping[str, Any],
    results: str,
) -> _Compared:
    truth = read_label(image, data.classes, data.void)
    height, width = row["height"], row["width"]
    if truth.semantic.shape != (height, width):
        raise DataError(
            f"{image.name}: the label is {truth.semantic.shape[0]} x "
            f"{truth.semantic.shape[1]}, the predicted image {height} x {width}"
        )
    found = _predicted(dataset, row)
    things = thing_ids(data.classes)
    return _Compared(
        image=image,
        objects=judge_objects(truth, found, things),
        pixels=confusion(truth.semantic, found.semantic),
        results=results,
        uncounted=not truth.instances.any() and bool(np.isin(truth.semantic, things).any()),
    )


def _predicted(dataset: OutputDataset, row: Mapping[str, Any]) -> Segmentation:
    its = (row["image_id"], row["shard"])
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    tiles = dataset.read_image("masks", columns, *its).to_pylist()
    more = WHOLE_COLUMNS if dataset.spec.overlapping else ()
    names = ["object_id", "class_id", "score", *more]
    rows = dataset.read_image("objects", names, *its).sort_by("object_id")
    semantic, instances = decode_tiles(tiles, row["height"], row["width"])
    objects = tuple(map(whole_object, rows.to_pylist())) if dataset.spec.overlapping else None
    class_ids, scores = rows["class_id"].to_numpy(), rows["score"].to_numpy()
    return Segmentation(semantic, instances, class_ids, scores, objects)


def _figures(
    group: str, compared: list[_Compared], classes: Classes, counted: list[int]
) -> Figures:
    return summarize(
        group,
        [one.objects for one in compared],
        np.sum([one.pixels for one in compared], axis=0),
        classes,
        counted,
    )
