"""The thresholds of decoding, chosen when training is over."""

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
from pipeline.models.unet import UNet
from pipeline.records import Sample
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training import tuning


def tuned(given: MethodSettings, name: str = "instance") -> MethodSettings:
    """Of a network of random weights, which is as good as any to choose thresholds for."""
    torch.manual_seed(0)
    method = build_method(given.model_copy(update={"name": name}), CLASSES)
    network = UNet(NetworkSettings(depth=1, width=4), 3, method.heads).eval()
    scenes = [make_scene(48, 48, 6, i) for i in range(3)]
    samples = [Sample(str(i), scene.image, scene.label) for i, scene in enumerate(scenes)]
    settings = ConfiguredSettings(
        data="d", output="o", channels=3, crop=48, batch_size=2, method=given,
        normalize=NormalizeSettings(kind="percentile"),
    )  # fmt: skip
    place = torch.device("cpu"), torch.float32
    return tuning.tune_decoding(network, method, samples, 3, settings, *place)


def test_the_best_thresholds_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(settings: MethodSettings, method: Method, found: object) -> float:
        return 1 - abs(settings.vote_blur - 0.38) - abs(settings.foreground_threshold - 0.44)

    monkeypatch.setattr(tuning, "_score", score)
    best = tuned(MethodSettings())
    assert (best.vote_blur, best.foreground_threshold) == (0.4, 0.45)


def test_what_the_user_gave_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_score", lambda *args: float(np.random.default_rng().random()))
    best = tuned(MethodSettings(foreground_threshold=0.31, vote_blur=0.7))
    assert (best.vote_blur, best.foreground_threshold) == (0.7, 0.31)


def test_a_method_without_thresholds_is_left_alone() -> None:
    assert tuned(MethodSettings(), "semantic").name == "semantic"


def test_scores_of_real_decodings_decide() -> None:
    assert tuned(MethodSettings()).name == "instance"
