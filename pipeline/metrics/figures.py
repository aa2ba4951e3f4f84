"""The figures of predicted labels against true ones, alike in a training and in an evaluation."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.counts import CountError, count_error
from pipeline.metrics.judging import JudgedObjects, scores_and_hits
from pipeline.metrics.matching import AP_THRESHOLDS, Matches, sum_matches
from pipeline.metrics.pixels import dice_iou
from pipeline.metrics.reliability import Reliability, reliability
from pipeline.metrics.true_counts import calibrate_counts
from pipeline.records import Classes, ClassSpec, CountCalibration, reported


@dataclass(frozen=True)
class ClassFigures:
    """One class over all images of a group. None where it never occurs or does not apply."""

    name: str
    kind: str
    dice: float | None
    iou: float | None
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
    """A group of images. Where no objects are counted, their figures are empty or None."""

    group: str
    images: int
    ap_mean: dict[str, float]
    """IoU threshold → AP, mean over images; 1 for an image without true or predicted objects."""
    ap_pooled: dict[str, float]
    """IoU threshold → AP over all objects together."""
    pq: float | None
    """Panoptic quality, mean over the classes of things that occur."""
    count_error: float | None
    """Sum of |predicted - true| over images and classes, divided by the number of true objects."""
    count_bias: float | None
    mean_iou: float | None
    """IoU of pixels, mean over the classes that occur, without background."""
    classes: tuple[ClassFigures, ...]
    scores: Reliability | None
    """Scores of found objects against having a true partner at IoU 0.5."""
    counts: dict[int, CountCalibration] = field(default_factory=dict)
    """Class id → how its counts relate to the truth."""


def summarize(
    group: str,
    objects: Sequence[JudgedObjects],
    pixels: NDArray[np.int64],
    classes: Classes,
    counted: Sequence[int],
) -> Figures:
    """The figures of a group of images.

    Args:
        objects: of each image.
        pixels: (256, 256) confusion matrix over all images.
        counted: ids of the classes whose objects were matched.
    """
    per_image = [sum_matches(one.matches.values()) for one in objects]
    per_class = {c: sum_matches(one.matches[c] for one in objects) for c in counted}
    error = _count_error(objects, counted)
    found = tuple(_of_class(spec, per_class, objects, pixels) for spec in reported(classes))
    ious = [one.iou for one in found if one.iou is not None]
    return Figures(
        group=group,
        images=len(objects),
        ap_mean=_by_threshold(np.mean([one.ap for one in per_image], axis=0)) if counted else {},
        ap_pooled=_by_threshold(sum_matches(per_image).ap) if counted else {},
        pq=_mean_quality(per_class.values()),
        count_error=_known(error.absolute),
        count_bias=_known(error.bias),
        mean_iou=float(np.mean(ious)) if ious else None,
        classes=found,
        scores=reliability(*scores_and_hits(objects)) if counted else None,
        counts=calibrate_counts(objects, counted),
    )


def _of_class(
    spec: ClassSpec,
    per_class: Mapping[int, Matches],
    objects: Sequence[JudgedObjects],
    pixels: NDArray[np.int64],
) -> ClassFigures:
    dice, iou = (_known(value) for value in dice_iou(pixels, spec.id))
    if spec.id not in per_class:
        return ClassFigures(spec.name, spec.kind, dice, iou, None, None, None, None, None, None)
    error, matches = _count_error(objects, [spec.id]), per_class[spec.id]
    return ClassFigures(
        name=spec.name,
        kind=spec.kind,
        dice=dice,
        iou=iou,
        pq=float(matches.pq[0]) if _occurs(matches) else None,
        ap_50=float(matches.ap[0]) if _occurs(matches) else None,
        n_true=sum(one.counts[spec.id][0] for one in objects),
        n_predicted=sum(one.counts[spec.id][1] for one in objects),
        count_error=_known(error.absolute),
        count_bias=_known(error.bias),
    )


def _occurs(matches: Matches) -> bool:
    """Whether there is an object, true or found."""
    return bool((matches.tp + matches.fp + matches.fn)[0])


def _mean_quality(classes: Iterable[Matches]) -> float | None:
    """Where a class never occurs there is nothing to be right about (Kirillov et al. 2019)."""
    found = [one.pq[0] for one in classes if _occurs(one)]
    return float(np.mean(found)) if found else None


def _count_error(objects: Sequence[JudgedObjects], counted: Sequence[int]) -> CountError:
    pairs = [one.counts[class_id] for one in objects for class_id in counted]
    return count_error([true for true, _ in pairs], [guess for _, guess in pairs])


def _by_threshold(values: NDArray[np.float64]) -> dict[str, float]:
    return {f"{t:.1f}": float(v) for t, v in zip(AP_THRESHOLDS, values, strict=True)}


def _known(value: float) -> float | None:
    """JSON has no word for NaN."""
    return None if math.isnan(value) else value
