"""An output dataset held against annotated images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from pipeline import storage
from pipeline.errors import DataError, DatasetError
from pipeline.labels import AnnotatedData, read_label
from pipeline.metrics import (
    AP_THRESHOLDS,
    Matches,
    confusion,
    count_error,
    dice_iou,
    match_objects,
    outside_void,
    sum_matches,
)
from pipeline.records import (
    AnnotatedImage,
    Classes,
    InstanceMap,
    Label,
    SemanticMap,
    reported,
    thing_ids,
)
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles


@dataclass(frozen=True)
class ClassFigures:
    """One class over all images of a group. NaN where the class never occurs."""

    name: str
    kind: str
    dice: float
    iou: float
    pq: float | None
    """At IoU 0.5; None for stuff, whose panoptic quality would be its IoU an image."""
    ap_50: float | None
    """Pooled over images."""
    n_true: int | None
    n_predicted: int | None
    count_error: float | None
    count_bias: float | None


@dataclass(frozen=True)
class Figures:
    """A group of images. An object matches only one of its own class."""

    group: str
    images: int
    ap_mean: dict[str, float]
    """IoU threshold → AP, mean over images; 1 for an image without true or predicted objects."""
    ap_pooled: dict[str, float]
    """IoU threshold → AP over all objects together."""
    pq: float
    """Panoptic quality, mean over the classes of things."""
    count_error: float
    """Sum of |predicted - true| over images and classes, divided by the number of true objects."""
    count_bias: float
    classes: list[ClassFigures]


@dataclass(frozen=True)
class _Compared:
    """What one image contributes."""

    image: AnnotatedImage
    matches: dict[int, Matches]
    counts: dict[int, tuple[int, int]]
    pixels: np.ndarray


def evaluate(
    dataset: OutputDataset,
    data: AnnotatedData,
    *,
    split: str | None = None,
    by: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Figures]:
    """Figures of all images together, then, with `by`, of each value of that manifest column.

    A prediction belongs to the annotated image that it was made of, or else to the one whose name
    is its file's name without suffix.

    Raises:
        DataError: an annotated image has no prediction, or several, or differs in size.
        DataProblems: with a line for each thing that is wrong with the annotated data.
        DatasetError: the classes are not those that the model knows.
    """
    images = [image for image in data.check().images if split in (None, image.split)]
    if not images:
        raise DataError(f"{data.uri} has no image of the split {split}")
    if by is not None and not all(by in image.attributes for image in images):
        raise DataError(f"the manifest of {data.uri} has no column {by}")
    _check_classes(dataset, data)
    ids = _predicted_ids(dataset, images)
    compared = []
    for image in images:
        compared.append(_compare(dataset, data, image, *ids[image.name]))
        on_progress(len(compared), len(images))
    figures = [_figures("all", compared, data.classes)]
    if by is not None:
        for value in sorted({image.attributes[by] for image in images}):
            members = [one for one in compared if one.image.attributes[by] == value]
            figures.append(_figures(value, members, data.classes))
    return figures


def _check_classes(dataset: OutputDataset, data: AnnotatedData) -> None:
    predicted = {(spec.id, spec.kind) for spec in dataset.classes}
    annotated = {(spec.id, spec.kind) for spec in data.classes}
    if predicted != annotated:
        raise DatasetError(
            f"{dataset.uri} has the classes {_names(dataset.classes)}, "
            f"{data.uri} the classes {_names(data.classes)}"
        )


def _names(classes: Classes) -> str:
    return ", ".join(f"{spec.id} {spec.name} ({spec.kind})" for spec in classes)


def _predicted_ids(
    dataset: OutputDataset, images: Iterable[AnnotatedImage]
) -> dict[str, tuple[str, int, int]]:
    """Name → image_id, height and width of its prediction."""
    wanted = {image.name for image in images}
    by_uri = {image.image_uri: image.name for image in images}
    found: dict[str, tuple[str, int, int]] = {}
    twice: set[str] = set()
    itself: set[str] = set()  # names whose prediction is of the annotated file, not of a namesake
    for batch in dataset.scan("images", ["image_id", "uri", "height", "width"]):
        for row in batch.to_pylist():
            own = by_uri.get(row["uri"])
            name = own or storage.name_of(row["uri"]).rpartition(".")[0]
            if name not in wanted or name in itself:
                continue
            if own is not None:
                itself.add(name)
            elif name in found:
                twice.add(name)
            found[name] = (row["image_id"], row["height"], row["width"])
    for name in sorted(twice - itself):
        raise DataError(f"{dataset.uri} holds more than one image named {name}")
    missing = sorted(wanted - found.keys())
    if missing:
        raise DataError(
            f"{len(missing)} of {len(wanted)} annotated images have no prediction in "
            f"{dataset.uri}, such as {missing[0]}; predict them, or choose a --split"
        )
    return found


def _compare(
    dataset: OutputDataset,
    data: AnnotatedData,
    image: AnnotatedImage,
    image_id: str,
    height: int,
    width: int,
) -> _Compared:
    truth = read_label(image, data.classes, data.void)
    if truth.semantic.shape != (height, width):
        raise DataError(
            f"{image.name}: the label is {truth.semantic.shape[0]} x "
            f"{truth.semantic.shape[1]}, the predicted image {height} x {width}"
        )
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    tiles = dataset.read("masks", columns, pc.field("image_id") == image_id).to_pylist()
    semantic, instances = decode_tiles(tiles, height, width)
    guess = Label(semantic, outside_void(instances, truth.semantic))
    matches, counts = {}, {}
    for class_id in thing_ids(data.classes):
        pair = (_of_class(truth, class_id), _of_class(guess, class_id))
        matches[class_id] = match_objects(*pair)
        counts[class_id] = (_count(pair[0]), _count(pair[1]))
    return _Compared(image, matches, counts, confusion(truth.semantic, semantic))


def _of_class(label: Label, class_id: int) -> InstanceMap:
    """The objects of one class; an object's class is that of most of its pixels."""
    n = int(label.instances.max(initial=0))
    votes = _votes(label.instances, label.semantic, n)
    mine = votes.argmax(1) == class_id
    mine[0] = False
    return np.where(mine[label.instances], label.instances, 0)


def _votes(instances: InstanceMap, semantic: SemanticMap, n: int) -> np.ndarray:
    keys = instances.ravel().astype(np.int64) * 256 + semantic.ravel()
    return np.bincount(keys, minlength=(n + 1) * 256).reshape(n + 1, 256)


def _count(instances: InstanceMap) -> int:
    return int((np.bincount(instances.ravel())[1:] > 0).sum())


def _figures(group: str, compared: list[_Compared], classes: Classes) -> Figures:
    things = thing_ids(classes)
    matrix = np.sum([one.pixels for one in compared], axis=0)
    per_image = [sum_matches(one.matches.values()) for one in compared]
    per_class = {
        class_id: sum_matches(one.matches[class_id] for one in compared) for class_id in things
    }
    pairs = [one.counts[class_id] for one in compared for class_id in things]
    error = count_error([t for t, _ in pairs], [p for _, p in pairs])
    return Figures(
        group=group,
        images=len(compared),
        ap_mean=_by_threshold(np.mean([one.ap for one in per_image], axis=0)),
        ap_pooled=_by_threshold(sum_matches(per_image).ap),
        pq=float(np.mean([m.pq[0] for m in per_class.values()])) if things else float("nan"),
        count_error=error.absolute,
        count_bias=error.bias,
        classes=[
            _class_figures(spec.id, spec.name, spec.kind, matrix, per_class, compared)
            for spec in reported(classes)
        ],
    )


def _class_figures(
    class_id: int,
    name: str,
    kind: str,
    matrix: np.ndarray,
    per_class: dict[int, Matches],
    compared: list[_Compared],
) -> ClassFigures:
    dice, iou = dice_iou(matrix, class_id)
    if class_id not in per_class:
        return ClassFigures(name, kind, dice, iou, None, None, None, None, None, None)
    pairs = [one.counts[class_id] for one in compared]
    true, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    error = count_error(true, predicted)
    matches = per_class[class_id]
    return ClassFigures(
        name=name,
        kind=kind,
        dice=dice,
        iou=iou,
        pq=float(matches.pq[0]),
        ap_50=float(matches.ap[0]),
        n_true=sum(true),
        n_predicted=sum(predicted),
        count_error=error.absolute,
        count_bias=error.bias,
    )


def _by_threshold(values: np.ndarray) -> dict[str, float]:
    return {f"{t:.1f}": float(v) for t, v in zip(AP_THRESHOLDS, values, strict=True)}
