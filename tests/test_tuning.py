"""The thresholds of decoding, chosen when training is over."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from pipeline.config import (
    ConfiguredSettings,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
)
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.metrics import Reliability
from pipeline.metrics.judging import judge_objects
from pipeline.models.unet import UNet
from pipeline.predicting.predictor import Predictor
from pipeline.records import Label, Maps, Sample, Segmentation
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training import tuning
from pipeline.training.reports import Validation
from pipeline.training.validation import Seen, build_predictor, look, validate
from tests.label_sets import perfect_outputs

SCENES = [make_scene(48, 48, 6, seed) for seed in range(3)]
SAMPLES = [Sample(str(i), scene.image, scene.label) for i, scene in enumerate(SCENES)]
PLACE = torch.device("cpu"), torch.float32


def settings_with(given: MethodSettings) -> ConfiguredSettings:
    return ConfiguredSettings(
        data="d", output="o", channels=3, zoom=1, crop=48, batch_size=2, method=given,
        normalize=NormalizeSettings(kind="percentile"),
    )  # fmt: skip


def network_for(method: Method) -> UNet:
    """Of random weights, which is as good as any to choose thresholds for."""
    torch.manual_seed(0)
    return UNet(NetworkSettings(depth=1, width=4), 3, method.heads).eval()


def predictor_for(method: Method) -> Predictor:
    return build_predictor(network_for(method), method, 3, settings_with(method.settings), *PLACE)


def tuned(
    given: MethodSettings, name: str = "instance", samples: Sequence[Sample] = SAMPLES
) -> MethodSettings:
    method = build_method(given.model_copy(update={"name": name}), CLASSES)
    chosen = tuning.images_to_tune_on(method, [one.label.semantic.shape for one in samples])
    seen = look(predictor_for(method), samples, chosen)
    return tuning.tune_decoding(method, seen, given.model_fields_set)


def test_the_best_thresholds_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(settings: MethodSettings, judge: object) -> float:
        return 1 - abs(settings.vote_blur - 0.38) - abs(settings.foreground_threshold - 0.44)

    monkeypatch.setattr(tuning, "_score", score)
    best = tuned(MethodSettings())
    assert (best.vote_blur, best.foreground_threshold) == (0.4, 0.45)


def test_what_the_user_gave_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_score", lambda *args: float(np.random.default_rng().random()))
    best = tuned(MethodSettings(foreground_threshold=0.31, vote_blur=0.7, score_shift=-0.2))
    assert (best.vote_blur, best.foreground_threshold) == (0.7, 0.31)
    assert (best.score_slope, best.score_shift) == (1, -0.2)


def test_thresholds_that_a_method_has_not_are_left_alone() -> None:
    best, before = tuned(MethodSettings(), "semantic"), MethodSettings(name="semantic")
    learned = {"score_slope", "score_shift", "score_size", "min_score"}
    assert best.model_dump(exclude=learned) == before.model_dump(exclude=learned)


def validated(settings: MethodSettings) -> Validation:
    method = build_method(settings, CLASSES)
    return validate(predictor_for(method), method, SAMPLES).validation


def test_real_decodings_are_the_better_for_it() -> None:
    """Of a network that marks bright pixels, with a threshold that most of them do not reach."""
    before = MethodSettings(name="instance")
    best = tuned(MethodSettings())
    assert validated(best).score >= validated(before).score


def objects_of(settings: MethodSettings) -> Reliability:
    scores = validated(settings).figures.scores
    assert scores is not None
    return scores


@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_objects_are_right_as_often_as_their_scores_say(name: str) -> None:
    """Those of a network that knows nothing: hardly ever."""
    as_it_was = objects_of(MethodSettings(name=name))
    learned = objects_of(tuned(MethodSettings(), name))
    assert as_it_was.gap is not None
    assert learned.gap is not None
    assert as_it_was.gap > 0.2
    assert abs(learned.gap) < as_it_was.gap / 2


def test_objects_without_true_ones_keep_their_scores() -> None:
    bare = [
        Sample(one.name, one.pixels, Label(one.label.semantic, np.zeros_like(one.label.instances)))
        for one in SAMPLES
    ]
    best = tuned(MethodSettings(), "semantic", bare)
    assert (best.score_slope, best.score_shift) == (1, 0)


def seen_faintly(method: Method, scene: int) -> Seen:
    """The true objects, sure, and twelve faint specks that nobody labelled."""
    label = SCENES[scene].label
    outputs = perfect_outputs(method, label)
    maps = {name: plane[0].numpy() for name, plane in method.maps(outputs).items()}
    free = np.argwhere(cv2.dilate((label.instances > 0).astype(np.uint8), np.ones((9, 9))) == 0)
    for y, x in free[:: max(1, len(free) // 12)]:
        maps["foreground"][y - 1 : y + 2, x - 1 : x + 2] = 140
        maps["class"][y - 1 : y + 2, x - 1 : x + 2] = 2
    return Seen(label, maps)


@pytest.mark.parametrize("name", ["instance", "proposals", "semantic"])
def test_tuning_decodes_no_more_often_than_time_is_kept_for(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build_method(MethodSettings(name=name), CLASSES)
    times: list[int] = []
    plain = type(method).decode

    def counted(self: Method, maps: Maps) -> Segmentation:
        times.append(1)
        return plain(self, maps)

    monkeypatch.setattr(type(method), "decode", counted)
    tuned(MethodSettings(), name)
    most = tuning.decodings(method) * len(SAMPLES)
    assert 0.7 * most <= len(times) <= most


def test_objects_that_lower_ap_are_left_out() -> None:
    method = build_method(MethodSettings(name="instance"), CLASSES)
    seen = {i: seen_faintly(method, i) for i in range(len(SCENES))}
    best = tuning.tune_decoding(method, seen, {"vote_blur", "foreground_threshold"})
    found = [build_method(best, CLASSES).decode(one.maps) for one in seen.values()]
    all_found = [method.decode(one.maps) for one in seen.values()]
    assert sum(len(one.scores) for one in all_found) > sum(len(one.scores) for one in found)
    for one, kept in zip(seen.values(), found, strict=True):
        assert judge_objects(one.label, kept, [2]).matches[2].ap[0] > 0.9
    # Of surely right ones the odds need be only even, see `tuning`.
    assert 0.4 < best.min_score <= 0.5


def test_who_gives_the_least_score_gets_it() -> None:
    method = build_method(MethodSettings(name="instance", min_score=0.2), CLASSES)
    seen = {i: seen_faintly(method, i) for i in range(len(SCENES))}
    best = tuning.tune_decoding(method, seen, {"min_score"})
    assert best.min_score == 0.2
    assert best.score_slope != 1  # learned of all objects


def test_many_images_are_tuned_on_by_an_even_part_of_them() -> None:
    method = build_method(MethodSettings(name="instance"), CLASSES)
    assert tuning.images_to_tune_on(method, [(1000, 1000)] * 7) == [0, 1, 2, 3, 4, 5, 6]
    some = tuning.images_to_tune_on(method, [(1000, 1000)] * 401)
    assert len(some) == 100
    assert (some[0], some[-1]) == (0, 400)
    assert set(np.diff(some)) <= {4, 5}
    assert tuning.images_to_tune_on(method, [(20_000, 20_000)] * 3) == [0]
    assert tuning.images_to_tune_on(method, [(1000, 1000)] * 9, share=0.35) == [0, 4, 8]


def test_without_objects_there_is_nothing_to_tune_on() -> None:
    method = build_method(MethodSettings(name="semantic"), CLASSES[:2])
    assert tuning.images_to_tune_on(method, [(64, 64)] * 3) == []
    assert tuning.tune_decoding(method, {}, set()) == method.settings
