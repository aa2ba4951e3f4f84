"""What a method's decoding takes from the validation images, when training is over.

First its thresholds, a setting at a time, in the order in which the method names them. The values
are few and the figures smooth in them, so there is little to overfit: two numbers against hundreds
of objects. Then the two numbers that make a score say how often an object is right.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.collective import rank_and_world
from pipeline.config import MethodSettings, TrainSettings
from pipeline.judging import JudgedObjects, any_true, judge_objects, scores_and_hits
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.metrics import sum_matches
from pipeline.models.unet import UNet
from pipeline.records import Label, Maps, Sample, thing_ids
from pipeline.training.calibration import fit_scores
from pipeline.training.validation import build_predictor
from pipeline.training.world import gather

_GAIN = 0.001  # of the score that a change has to bring, or what was there stays
_OF_SCORES = frozenset({"score_slope", "score_shift"})

_Judge = Callable[[MethodSettings], list[JudgedObjects]]
"""What a decoding finds in the images, in their order, those of all processes."""


def tune_decoding(
    network: UNet,
    method: Method,
    samples: Sequence[Sample],
    channels: int,
    settings: TrainSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> MethodSettings:
    """The method's settings with thresholds that give the best mean AP, and with honest scores.

    Alike in all processes. The network runs once; only the decoding is repeated. Settings that the
    user gave stay.
    """
    given = settings.method.model_fields_set
    things = thing_ids(method.classes)
    if not things:
        return method.settings
    rank, world = rank_and_world()
    predictor = build_predictor(network, method, channels, settings, device, dtype)
    mine: list[tuple[Label, Maps]] = []
    for index in range(rank, len(samples), world):
        sample = samples[index]
        mine.append((sample.label, predictor.predict([predictor.prepare(sample.pixels)])[0]))

    def judge(tried: MethodSettings) -> list[JudgedObjects]:
        decoder = build_method(tried, method.classes)
        parts = gather([judge_objects(truth, decoder.decode(maps), things) for truth, maps in mine])
        return [parts[i % world][i // world] for i in range(len(samples))]

    best = _best_thresholds(method, judge, given)
    return best if given & _OF_SCORES else _with_honest_scores(best, judge)


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
