"""What a method's decoding takes from the validation images, when training is over.

First its thresholds, a setting at a time, in the order in which the method names them. The values
are few and the figures smooth in them, so there is little to overfit: two numbers against hundreds
of objects. Then the two numbers that make a score say how often an object is right.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from pipeline.config import MethodSettings
from pipeline.judging import JudgedObjects, any_true, judge_objects, scores_and_hits
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.metrics import sum_matches
from pipeline.records import thing_ids
from pipeline.training.calibration import fit_scores
from pipeline.training.validation import Seen, evenly
from pipeline.training.world import gather

_MOST_PIXELS = 100_000_000  # that are decoded ten times over, in memory: about a gigabyte
_GAIN = 0.001  # of the score that a change has to bring, or what was there stays
_OF_SCORES = frozenset({"score_slope", "score_shift"})

_Judge = Callable[[MethodSettings], list[JudgedObjects]]
"""What a decoding finds in the images, in their order, those of all processes."""


def images_to_tune_on(method: Method, sizes: Sequence[tuple[int, ...]]) -> list[int]:
    """The numbers of those of the validation images that `tune_decoding` should see.

    All of them, as long as they are few; of more, some that are spread evenly over them. None where
    there are no objects to decode.

    Args:
        sizes: height and width of each.
    """
    if not thing_ids(method.classes):
        return []
    pixels = sum(height * width for height, width in sizes)
    share = min(1.0, _MOST_PIXELS / max(pixels, 1))
    return evenly(len(sizes), max(1, int(len(sizes) * share)))


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

    def judge(tried: MethodSettings) -> list[JudgedObjects]:
        judge_one = partial(_judge, build_method(tried, method.classes), things)
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            mine = dict(zip(seen, threads.map(judge_one, seen.values()), strict=True))
        found = {index: one for part in gather(mine) for index, one in part.items()}
        return [found[index] for index in sorted(found)]

    best = _best_thresholds(method, judge, given)
    return best if given & _OF_SCORES else _with_honest_scores(best, judge)


def _judge(decoder: Method, things: Sequence[int], seen: Seen) -> JudgedObjects:
    return judge_objects(seen.label, decoder.decode(seen.maps), things)


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
    found = judge(settings)
    if not any_true(found):
        return settings
    slope, shift = fit_scores(*scores_and_hits(found))
    return settings.model_copy(update={"score_slope": slope, "score_shift": shift})


def _score(settings: MethodSettings, judge: _Judge) -> float:
    """Mean AP over thresholds and images."""
    return float(np.mean([sum_matches(one.matches.values()).ap for one in judge(settings)]))
