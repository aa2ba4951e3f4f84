"""The thresholds of a method's decoding, chosen on the validation images when training is over.

A setting at a time, in the order in which the method names them. The values are few and the
figures smooth in them, so there is little to overfit: two numbers against hundreds of objects.
"""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.collective import rank_and_world
from pipeline.config import MethodSettings, TrainSettings
from pipeline.figures import match_labels
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.metrics import outside_void, sum_matches
from pipeline.models.unet import UNet
from pipeline.records import Label, Maps, Sample, thing_ids
from pipeline.training.validation import build_predictor
from pipeline.training.world import gather

_GAIN = 0.001  # of the score that a change has to bring, or what was there stays


def tune_decoding(
    network: UNet,
    method: Method,
    samples: Sequence[Sample],
    channels: int,
    settings: TrainSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> MethodSettings:
    """The method's settings with the thresholds that give the best mean AP; alike in all processes.

    The network runs once; only the decoding is repeated. Settings that the user gave stay.
    """
    best = method.settings
    given = settings.method.model_fields_set
    tunable = {name: values for name, values in method.tunable.items() if name not in given}
    if not tunable:
        return best
    rank, world = rank_and_world()
    predictor = build_predictor(network, method, channels, settings, device, dtype)
    mine: list[tuple[Label, Maps]] = []
    for index in range(rank, len(samples), world):
        sample = samples[index]
        mine.append((sample.label, predictor.predict([predictor.prepare(sample.pixels)])[0]))
    top = _score(best, method, mine)
    for name, values in tunable.items():
        for value in values:
            changed = best.model_copy(update={name: value})
            score = _score(changed, method, mine) if changed != best else top
            if score > top + _GAIN:
                best, top = changed, score
    return best


def _score(settings: MethodSettings, method: Method, found: list[tuple[Label, Maps]]) -> float:
    """Mean AP over thresholds and images, those of all processes."""
    decoder = build_method(settings, method.classes)
    scores = []
    for truth, maps in found:
        decoded = decoder.decode(maps)
        guess = Label(decoded.semantic, outside_void(decoded.instances, truth.semantic))
        matches = match_labels(truth, guess, thing_ids(method.classes)).matches.values()
        scores.append(float(np.mean(sum_matches(matches).ap)))
    return float(np.mean([score for part in gather(scores) for score in part]))
