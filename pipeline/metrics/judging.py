"""The objects found in one image, held against the true ones.

An object matches only one of its own class, and an object's class is that of most of its pixels.
What lies where nobody labelled is neither right nor wrong.

Legend: H height, W width, M found objects, N those of all images that are right or wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline.metrics.matching import (
    AP_THRESHOLDS,
    Matches,
    iou_matrix,
    iou_of,
    match_ious,
    matched_pairs,
    outside_void,
)
from pipeline.overlaps import membership_of, memberships
from pipeline.records import VOID, InstanceMap, Label, ObjectMask, Segmentation, SemanticMap


@dataclass(frozen=True)
class JudgedObjects:
    """What the objects of one image contribute."""

    matches: Mapping[int, Matches]
    """By class."""
    counts: Mapping[int, tuple[int, int]]
    """By class: how many are true, how many were found."""
    hits: NDArray[np.int64]
    """Ids of the found objects that have a partner at the lowest threshold."""
    scores: NDArray[np.float32]
    """(M,) NaN for those that lie where nobody labelled."""


def judge_objects(truth: Label, found: Segmentation, class_ids: Iterable[int]) -> JudgedObjects:
    """Match the objects of one image, those of each class among themselves."""
    pairs = _compare(truth, found) if found.objects is None else _compare_whole(truth, found)
    iou, true_class, found_class = pairs
    matches, counts, hits = {}, {}, [np.zeros(0, np.int64)]
    for class_id in class_ids:
        rows = np.flatnonzero(true_class == class_id)
        columns = np.flatnonzero(found_class == class_id)
        of_class = iou[rows][:, columns]
        counts[class_id] = (len(rows), len(columns))
        matches[class_id] = match_ious(of_class, *counts[class_id])
        hits.append(columns[matched_pairs(of_class, AP_THRESHOLDS[0])[1]].astype(np.int64))
    known = np.zeros(len(found.scores) + 1, bool)
    known[: len(found_class)] = found_class != VOID
    scores = np.where(known[1:], found.scores, np.nan).astype(np.float32)
    return JudgedObjects(matches, counts, np.concatenate(hits), scores)


_Pairs = tuple[csr_array, NDArray[np.uint8], NDArray[np.uint8]]
"""(N + 1, M + 1) IoU of true and found objects by id, and the class of each; VOID for none."""


def _compare(truth: Label, found: Segmentation) -> _Pairs:
    """Objects as the maps show them."""
    guess = labelled_part(truth, found)
    return (
        iou_matrix(truth.instances, guess.instances),
        object_classes(truth.instances, truth.semantic),
        object_classes(guess.instances, guess.semantic),
    )


def _compare_whole(truth: Label, found: Segmentation) -> _Pairs:
    """Objects with the pixels that they share with others."""
    assert found.objects is not None
    shape = truth.semantic.shape
    labelled = np.flatnonzero(truth.semantic != VOID)
    theirs = memberships(found.objects, shape)
    if truth.objects:
        mine, true_class = memberships(truth.objects, shape), _said(truth.objects)
    else:
        mine = membership_of(truth.instances)
        true_class = object_classes(truth.instances, truth.semantic)
    found_class, whole = _said(found.objects), theirs.sum(1)
    if len(labelled) < truth.semantic.size:  # which takes apart every row of both
        mine, theirs = mine[:, labelled], theirs[:, labelled]
    # As `outside_void` does.
    found_class[2 * theirs.sum(1) < whole] = VOID
    return iou_of(mine, theirs), true_class, found_class


def _said(objects: Sequence[ObjectMask]) -> NDArray[np.uint8]:
    """(N + 1,) the class of each id."""
    classes = np.full(max((one.id for one in objects), default=0) + 1, VOID, np.uint8)
    for one in objects:
        classes[one.id] = one.class_id
    return classes


def labelled_part(truth: Label, found: Segmentation) -> Label:
    """What was found, without objects where nobody labelled."""
    return Label(found.semantic, outside_void(found.instances, truth.semantic))


def object_classes(instances: InstanceMap, semantic: SemanticMap) -> NDArray[np.uint8]:
    """(M + 1,) the class of each id; VOID for 0 and for ids that have no pixel."""
    n = int(instances.max(initial=0))
    keys = instances.ravel().astype(np.int64) * 256 + semantic.ravel()
    votes = np.bincount(keys, minlength=(n + 1) * 256).reshape(n + 1, 256)
    classes = np.where(votes.any(1), votes.argmax(1), VOID).astype(np.uint8)
    classes[0] = VOID
    return classes


def any_true(images: Iterable[JudgedObjects]) -> bool:
    """Whether the labels of any image hold objects: labels of classes alone hold none."""
    return any(true for one in images for true, _ in one.counts.values())


def scores_and_hits(
    images: Sequence[JudgedObjects],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N,) scores of the objects of all images, and whether each has a true partner."""
    scores = np.concatenate([one.scores for one in images])
    right = np.concatenate([np.isin(np.arange(1, len(o.scores) + 1), o.hits) for o in images])
    known = ~np.isnan(scores)
    return scores[known], right[known]
