"""What a method's decoding takes from the validation images, when training is over.

First its thresholds, a setting at a time, in the order in which the method names them. The values
are few and the figures smooth in them, so there is little to overfit: two numbers against hundreds
of objects. Then the three numbers that make a score say how often an object is right. Last the
score from which on objects are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import MethodSettings
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.metrics import sum_matches
from pipeline.metrics.judging import JudgedObjects, any_true, judge_objects, scores_and_hits
from pipeline.overlaps import areas_of
from pipeline.records import thing_ids
from pipeline.scores import relative_sizes
from pipeline.training.calibration import fit_scores
from pipeline.training.spread import evenly
from pipeline.training.validation import Seen
from pipeline.training.world import gather

_MOST_PIXELS = 100_000_000  # that are decoded ten times over, in memory: about a gigabyte
_GAIN = 0.001  # of the score that a change has to bring, or what was there stays
_DIGITS = 3
_OF_SCORES = ("score_slope", "score_shift", "score_size")


@dataclass(frozen=True)
class _Judged:
    """What a decoding finds in an image."""

    objects: JudgedObjects
    sizes: NDArray[np.float64]
    """(M,) of the found objects, see `scores.relative_sizes`."""


_Judge = Callable[[MethodSettings], list[_Judged]]
"""What a decoding finds in the images, in their order, those of all processes."""


def images_to_tune_on(
    method: Method, sizes: Sequence[tuple[int, ...]], share: float = 1.0
) -> list[int]:
    """The numbers of those of the validation images that `tune_decoding` should see.

    All of them, as long as they are few; of more, some that are spread evenly over them. None where
    there are no objects to decode.

    Args:
        sizes: height and width of each.
        share: of the images that there is time for.
    """
    if not thing_ids(method.classes):
        return []
    pixels = sum(height * width for height, width in sizes)
    share *= min(1.0, _MOST_PIXELS / max(pixels, 1))
    return evenly(len(sizes), max(1, int(len(sizes) * share)))


def decodings(method: Method) -> int:
    """How often `tune_decoding` decodes its images, at most: see what it does, in that order."""
    tried = sum(len(values) for values in method.tunable.values())
    return 1 + tried + 1 + 5 if thing_ids(method.classes) else 0


def tune_decoding(method: Method, seen: Mapping[int, Seen], given: set[str]) -> MethodSettings:
    """The method's settings with thresholds that give the best mean AP, and with honest scores.

    Alike in all processes.

    Args:
        seen: of the images to tune on, this process's share.
        given: names of the settings that the user gave: they stay.
    """
    things = thing_ids(method.classes)
    if not things:
        return method.settings

    def judge(tried: MethodSettings) -> list[_Judged]:
        judge_one = partial(_judge, build_method(tried, method.classes), things)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            mine = dict(zip(seen, threads.map(judge_one, seen.values()), strict=True))
        found = {index: one for part in gather(mine) for index, one in part.items()}
        return [found[index] for index in sorted(found)]

    kept_from = method.settings.min_score
    all_kept = build_method(method.settings.model_copy(update={"min_score": 0.0}), method.classes)
    best = _best_thresholds(all_kept, judge, given)
    if not given.intersection(_OF_SCORES):
        best = _with_honest_scores(best, judge)
    if "min_score" in given:
        return best.model_copy(update={"min_score": kept_from})
    return _without_doubtful(best, judge)


def _judge(decoder: Method, things: Sequence[int], seen: Seen) -> _Judged:
    found = decoder.decode(seen.maps)
    if found.objects is None:
        areas = np.bincount(found.instances.ravel(), minlength=len(found.scores) + 1)[1:]
    else:
        areas = areas_of(found.objects)
    typical_area = decoder.typical_area(decoder.scale(seen.maps))
    return _Judged(judge_objects(seen.label, found, things), relative_sizes(areas, typical_area))


def _best_thresholds(method: Method, judge: _Judge, given: set[str]) -> MethodSettings:
    best = method.settings
    tunable = {name: values for name, values in method.tunable.items() if name not in given}
    top = _score(best, judge) if tunable else 0.0
    for name, values in tunable.items():
        for value in values:
            changed = best.model_copy(update={name: value})
            score = _score(changed, judge) if changed != best else top
            if score > top + _GAIN:
                best, top = changed, score
    return best


def _with_honest_scores(settings: MethodSettings, judge: _Judge) -> MethodSettings:
    judged = judge(settings)
    found = [one.objects for one in judged]
    if not any_true(found):
        return settings
    mean, right = scores_and_hits(found)
    known = ~np.isnan(np.concatenate([one.scores for one in found]))
    sizes = np.concatenate([one.sizes for one in judged])[known]
    learned = dict(zip(_OF_SCORES, fit_scores(mean, sizes, right), strict=True))
    return settings.model_copy(update=learned)


def _without_doubtful(settings: MethodSettings, judge: _Judge) -> MethodSettings:
    """Only objects that are likely enough right for AP at IoU 0.5, where that gains mean AP.

    One more object that is right with probability p adds p to TP and 1 - p to TP + FP + FN, which
    is better for AP if p > AP / (1 + AP). That is half of the best F1, as in Lipton et al. 2014
    (arXiv:1402.1892). AP grows by that, and so it is looked at twice.
    """
    found = judge(settings)
    if not any_true(one.objects for one in found):
        return settings
    tried = settings
    for _ in range(2):
        ap = _mean_ap(found)[0]
        tried = settings.model_copy(update={"min_score": round(float(ap / (1 + ap)), _DIGITS)})
        found = judge(tried)
    return tried if _score(tried, judge) > _score(settings, judge) + _GAIN else settings


def _score(settings: MethodSettings, judge: _Judge) -> float:
    """Mean AP over thresholds and images."""
    return float(_mean_ap(judge(settings)).mean())


def _mean_ap(found: Sequence[_Judged]) -> NDArray[np.float64]:
    """(T,) AP at each threshold, mean over images."""
    mean: NDArray[np.float64] = np.mean(
        [sum_matches(one.objects.matches.values()).ap for one in found], axis=0
    )
    return mean
