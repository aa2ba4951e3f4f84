"""The objects that are found in one validation image, held against the true ones.

Legend: M found objects, N of all images, those alone that lie where somebody labelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.figures import ObjectMatches, match_labels
from pipeline.metrics import outside_void
from pipeline.records import Classes, Label, Segmentation, thing_ids


@dataclass(frozen=True)
class JudgedObjects:
    """What one image contributes."""

    found: ObjectMatches
    scores: NDArray[np.float32]
    """(M,) NaN for those that lie where nobody labelled."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,) whether each has a true partner."""
        return np.isin(np.arange(1, len(self.scores) + 1), self.found.hits)


def judge_objects(truth: Label, found: Segmentation, classes: Classes) -> JudgedObjects:
    """Match the objects, each class among themselves."""
    guess = labelled_part(truth, found)
    counted = np.bincount(guess.instances.ravel(), minlength=len(found.scores) + 1)[1:] > 0
    return JudgedObjects(
        match_labels(truth, guess, thing_ids(classes)),
        np.where(counted, found.scores, np.nan).astype(np.float32),
    )


def labelled_part(truth: Label, found: Segmentation) -> Label:
    """What was found, without objects where nobody labelled."""
    return Label(found.semantic, outside_void(found.instances, truth.semantic))


def scores_and_hits(
    images: Sequence[JudgedObjects],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(N,) scores, and whether each is right."""
    scores = np.concatenate([one.scores for one in images])
    right = np.concatenate([one.right for one in images])
    known = ~np.isnan(scores)
    return scores[known], right[known]


def any_true(images: Sequence[JudgedObjects]) -> bool:
    """Whether the labels of any image hold objects: labels of classes alone hold none."""
    return any(true for one in images for true, _ in one.found.counts.values())
