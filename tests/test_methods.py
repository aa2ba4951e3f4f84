"""Methods: targets and decoding belong together, and losses see what was labelled."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.config import MethodSettings, PredictSettings
from pipeline.config.model import THRESHOLDS
from pipeline.errors import SettingsError
from pipeline.labels import open_data, read_label
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.methods.losses import semantic_loss
from pipeline.records import VOID, Label
from pipeline.synthetic import CLASSES, make_scene
from tests.label_sets import perfect_outputs, targets_of
from tests.matching import match_objects


def decode(method: Method, outputs: dict[str, torch.Tensor]):
    return method.decode({name: m[0].numpy() for name, m in method.maps(outputs).items()})


@pytest.mark.parametrize("seed", range(5))
def test_instances_come_back_from_their_own_targets(seed: int) -> None:
    label = make_scene(160, 200, 60, seed).label
    method = build_method(MethodSettings(name="instance"), CLASSES)
    found = decode(method, perfect_outputs(method, label))
    matches = match_objects(label.instances, found.instances)
    n = int(label.instances.max())
    assert n > 20
    assert matches.tp[0] >= 0.97 * n  # a sliver beside a larger object may have no seed of its own
    assert matches.fp[0] <= 1
    assert (found.semantic == label.semantic).mean() > 0.995


def test_real_nuclei_come_back_from_their_own_targets(dsb2018: Path) -> None:
    """What the method could reach on real objects if the network made no mistake."""
    data = open_data(str(dsb2018), val_fraction=0.2)
    method = build_method(MethodSettings(name="instance"), data.classes)
    found = []
    for image in data.split("val"):
        label = read_label(image, data.classes, data.void)
        decoded = decode(method, perfect_outputs(method, label))
        found.append(match_objects(label.instances, decoded.instances).ap)
    assert len(found) > 50
    assert np.mean(found, axis=0)[0] > 0.98  # measured: 0.995


@pytest.mark.parametrize("name", ["instance", "proposals"])
def test_ids_on_stuff_are_no_objects_to_learn(name: str) -> None:
    """As panoptic maps have them: they were most of what the objects' head learned from."""
    label = make_scene(96, 96, 20, 0).label
    stuff = next(spec.id for spec in CLASSES if spec.kind == "stuff")
    instances = label.instances.copy()
    instances[label.semantic == stuff] = int(instances.max()) + 1
    assert (instances != label.instances).any()
    method = build_method(MethodSettings(name=name), CLASSES)
    outputs = {
        head: torch.randn(1, n, 96, 96, generator=torch.Generator().manual_seed(1))
        for head, n in method.heads.items()
    }
    losses = [
        float(method.loss(outputs, targets_of(method, Label(label.semantic, ids))))
        for ids in (label.instances, instances)
    ]
    assert losses[0] == pytest.approx(losses[1])


def test_touching_objects_of_one_class_stay_apart() -> None:
    instances = np.zeros((40, 60), np.int32)
    instances[10:30, 10:30], instances[10:30, 30:50] = 1, 2
    label = Label(np.where(instances > 0, 2, 0).astype(np.uint8), instances)
    method = build_method(MethodSettings(name="instance"), CLASSES)
    found = decode(method, perfect_outputs(method, label))
    assert match_objects(instances, found.instances).tp.tolist() == [2] * 5
    assert found.class_ids.tolist() == [2, 2]
    semantic = build_method(MethodSettings(name="semantic"), CLASSES)
    assert len(decode(semantic, perfect_outputs(semantic, label)).class_ids) == 1


def test_an_objects_class_is_the_vote_of_its_pixels() -> None:
    instances = np.zeros((40, 40), np.int32)
    instances[5:35, 5:35] = 1
    semantic = np.where(instances > 0, 2, 0).astype(np.uint8)
    method = build_method(MethodSettings(name="instance"), CLASSES)
    outputs = perfect_outputs(method, Label(semantic, instances))
    outputs["semantic"][0, :, 5:12, 5:35] = torch.tensor([0, 0, 0, 20.0])[:, None, None]
    found = decode(method, outputs)
    assert found.class_ids.tolist() == [2]
    assert set(np.unique(found.semantic)) == {0, 2}


@pytest.mark.parametrize("name", ["semantic", "instance"])
def test_an_image_without_objects_decodes_to_none(name: str) -> None:
    label = Label(np.zeros((30, 20), np.uint8), np.zeros((30, 20), np.int32))
    method = build_method(MethodSettings(name=name), CLASSES)
    found = decode(method, perfect_outputs(method, label))
    assert len(found.class_ids) == len(found.scores) == 0
    assert not found.instances.any()
    assert not found.semantic.any()


@pytest.mark.parametrize("name", ["semantic", "instance"])
def test_void_pixels_do_not_change_the_loss(name: str) -> None:
    label = make_scene(48, 48, 6, 3).label
    semantic = label.semantic.copy()
    semantic[:, 24:] = VOID
    method = build_method(MethodSettings(name=name), CLASSES)
    targets = targets_of(method, Label(semantic, label.instances))
    outputs = {h: torch.randn(1, k, 48, 48) for h, k in method.heads.items()}
    changed = {h: t.clone() for h, t in outputs.items()}
    for tensor in changed.values():
        tensor[..., 24:] += 5
    assert torch.isclose(method.loss(outputs, targets), method.loss(changed, targets))
    for tensor in changed.values():
        tensor[..., :24] += torch.randn(())
        tensor[:, :1, :, :24] -= 3
    assert not torch.isclose(method.loss(outputs, targets), method.loss(changed, targets))


def test_a_label_of_void_alone_has_a_gradient_of_zero() -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    semantic_loss(logits, torch.full((1, 8, 8), VOID), MethodSettings()).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_loss_is_cross_entropy_and_dice_of_what_was_labelled() -> None:
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 3, 9, 7), [1.0, 2.0, 5.0]
    target = torch.randint(0, 3, (2, 9, 7))
    target[:, 2:5] = VOID
    entropy = F.cross_entropy(logits, target, torch.tensor(weights), ignore_index=VOID)
    seen = (target != VOID).unsqueeze(1)
    truth = torch.stack([target == k for k in range(3)], 1) & seen
    guess = logits.softmax(1) * seen
    axes = (0, 2, 3)
    dice = 2 * (guess * truth).sum(axes) / (guess.sum(axes) + truth.sum(axes))
    found = semantic_loss(logits, target, MethodSettings(class_weights=weights))
    assert float(found) == pytest.approx(float(entropy + 1 - dice.mean()), rel=1e-5)


def test_class_weights_raise_the_price_of_a_class() -> None:
    target = torch.zeros(1, 8, 8)
    target[..., 4:] = 1
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0] = 2.0  # right about class 0, wrong about class 1
    plain = semantic_loss(logits, target, MethodSettings())
    weighted = semantic_loss(logits, target, MethodSettings(class_weights=[1.0, 9.0]))
    assert weighted > plain


def test_focal_and_miss_weight_shift_the_price() -> None:
    target = torch.zeros(1, 8, 8)
    target[..., 6:] = 1
    sure, unsure = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    sure[:, 0], sure[:, 0, :, 6:] = 4.0, -4.0
    unsure[:, 0], unsure[:, 0, :, 6:] = 0.5, -0.5

    def price(logits: torch.Tensor, **settings: float) -> float:
        return float(semantic_loss(logits, target, MethodSettings(**settings)))

    # The overlap's part stays; of the cross-entropy's, what is sure loses more.
    overlap = {id(x): price(x, focal=5) for x in (sure, unsure)}
    kept = [
        (price(x, focal=2) - overlap[id(x)]) / (price(x) - overlap[id(x)]) for x in (sure, unsure)
    ]
    assert 0 < kept[0] < kept[1] < 1
    # Class 1, the rare one, is half missed; or it is all found, and half as much again is false.
    missed, false = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    missed[:, 0, :, :7], missed[:, 1, :, 7:] = 20.0, 20.0
    false[:, 0, :, :5], false[:, 1, :, 5:] = 20.0, 20.0
    assert price(missed, miss_weight=0.9) > price(missed) + 0.01
    assert price(false, miss_weight=0.9) < price(false) - 0.01


@pytest.mark.parametrize("focal", [0.5, 1, 2])
def test_a_pixel_that_is_quite_sure_does_not_end_a_training(focal: float) -> None:
    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 0, :4] = 40.0  # right beyond what float32 can tell from 1
    logits.requires_grad_()
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    semantic_loss(logits, target, MethodSettings(focal=focal)).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[..., 4:, :].any()


def test_a_small_objects_error_counts_as_a_share_of_its_size() -> None:
    """Two pixels in a small object weigh as much as eight in one that is four times as wide."""
    method = build_method(MethodSettings(name="instance"), CLASSES)
    prices = {}
    for side, error in ((8, 2), (32, 8), (32, 2)):
        instances = np.zeros((48, 48), np.int32)
        instances[8 : 8 + side, 8 : 8 + side] = 1
        label = Label(np.where(instances > 0, 2, 0).astype(np.uint8), instances)
        targets = targets_of(method, label)
        outputs = perfect_outputs(method, label)
        right = method.loss(outputs, targets)
        outputs["offset"] = outputs["offset"] + error * 4 / method.reach
        prices[side, error] = float(method.loss(outputs, targets) - right)
    assert prices[8, 2] == pytest.approx(prices[32, 8], rel=1e-3)
    assert prices[8, 2] > 4 * prices[32, 2]


@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_doubtful_objects_are_left_out_and_all_else_stays(name: str) -> None:
    label = make_scene(120, 120, 30, 3).label
    settings = MethodSettings(name=name)
    method = build_method(settings, CLASSES)
    outputs = perfect_outputs(method, label)
    outputs["semantic"] *= torch.linspace(0.04, 0.2, 120)  # surer from left to right
    before = decode(method, outputs)
    least = float(np.median(before.scores))
    after = decode(build_method(settings.model_copy(update={"min_score": least}), CLASSES), outputs)
    keep = before.scores >= np.float32(least)
    assert 0 < keep.sum() < len(keep)
    np.testing.assert_array_equal(after.scores, before.scores[keep])
    np.testing.assert_array_equal(after.class_ids, before.class_ids[keep])
    numbers = np.append(0, np.where(keep, np.cumsum(keep), 0))
    np.testing.assert_array_equal(after.instances, numbers[before.instances])
    np.testing.assert_array_equal(after.semantic, before.semantic)


def test_small_specks_are_dropped_and_their_pixels_given_back() -> None:
    instances = np.zeros((30, 30), np.int32)
    instances[2:4, 2:4], instances[10:20, 10:20] = 1, 2
    label = Label(np.where(instances > 0, 2, 0).astype(np.uint8), instances)
    method = build_method(MethodSettings(name="instance", min_area=10), CLASSES)
    found = decode(method, perfect_outputs(method, label))
    assert len(found.class_ids) == 1
    assert not found.semantic[:6, :6].any()


@pytest.mark.parametrize("name", list(THRESHOLDS))
def test_a_method_has_the_thresholds_that_predictions_may_give(name: str) -> None:
    assert set(build_method(MethodSettings(name=name), CLASSES).tunable) == THRESHOLDS[name]
    given = {"foreground_threshold": 0.4, "vote_blur": 0.2, "overlap": 0.3}
    for key, value in given.items():
        asked = PredictSettings(input="i", model="m", output="o", **{key: value})
        if key in THRESHOLDS[name]:
            assert getattr(asked.decoding(MethodSettings(name=name), zoom=1), key) == value
        else:
            with pytest.raises(SettingsError, match=f"setting {key}: means nothing to this model"):
                asked.decoding(MethodSettings(name=name), zoom=1)
