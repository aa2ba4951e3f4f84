"""A training that begins with another model's network."""

from pathlib import Path

import pytest
import torch

from jobs import train
from pipeline.config import (
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    TrainSettings,
)
from pipeline.errors import BundleError, SettingsError
from pipeline.methods import build_method
from pipeline.methods.base import alike
from pipeline.models.blocks import StandardConv
from pipeline.models.bundle import BundleSpec, load_spec
from pipeline.models.unet import UNet
from pipeline.models.weights import ModelBundle, build_network
from pipeline.records import ClassSpec
from pipeline.synthetic import CLASSES
from pipeline.training.pretrained import Pretrained, begin_with, find_pretrained

SPEC = BundleSpec(
    network=NetworkSettings(depth=2, width=4, full_resolution="light"),
    channels=3,
    classes=CLASSES,
    method=MethodSettings(name="instance", reach=64),
    normalize=NormalizeSettings(kind="percentile", low=2),
)
CELLS = (
    ClassSpec(id=0, name="nothing", kind="background"),
    ClassSpec(id=4, name="crystal", kind="thing"),
    ClassSpec(id=5, name="fibre", kind="thing"),
)


def model(seed: int = 0) -> ModelBundle:
    torch.manual_seed(seed)
    return ModelBundle(SPEC, build_network(SPEC).eval())


def begun(method: MethodSettings, classes: tuple[ClassSpec, ...]) -> tuple[UNet, UNet]:
    """A new network, and the same once it was given the model's weights."""
    spec = SPEC.model_copy(update={"method": method, "classes": classes})
    torch.manual_seed(1)
    new, network = build_network(spec).eval(), build_network(spec).eval()
    network.load_state_dict(new.state_dict())
    begin_with(network, build_method(method, classes), model())
    return new, network


@torch.inference_mode()
def said(network: UNet) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    return network(torch.rand(1, 3, 24, 24))


def test_for_the_same_task_it_begins_as_the_same_network() -> None:
    _, network = begun(SPEC.method, CLASSES)
    for head, values in said(model().network).items():
        assert torch.allclose(said(network)[head], values, atol=1e-4)


def test_its_filters_are_as_easy_to_turn_as_new_ones() -> None:
    """Those of a long training are many times as long, and say the same."""
    trained = model()
    with torch.no_grad():
        for module in trained.network.modules():
            if isinstance(module, StandardConv):
                module.weight *= 8
    network = build_network(SPEC).eval()
    begin_with(network, build_method(SPEC.method, CLASSES), trained)
    for module in network.modules():
        if isinstance(module, StandardConv):
            assert torch.allclose(module.weight.flatten(1).norm(dim=1), torch.ones(()))
    for head, values in said(model().network).items():
        assert torch.allclose(said(network)[head], values, atol=1e-4)


def test_ways_to_the_middle_are_as_long_whatever_they_are_counted_in() -> None:
    _, network = begun(SPEC.method.model_copy(update={"reach": 128}), CLASSES)
    assert torch.allclose(said(network)["offset"] * 2, said(model().network)["offset"], atol=1e-4)


def test_of_other_classes_it_knows_those_that_mean_the_same() -> None:
    assert alike(CELLS, CLASSES) == {0: 0, 1: 3}
    new, network = begun(SPEC.method, CELLS)
    theirs, ours = said(model().network)["semantic"], said(network)["semantic"]
    assert torch.allclose(ours[:, :2], theirs[:, [0, 3]], atol=1e-4)
    fibre = [net.heads["semantic"].weight[2] for net in (new, network)]
    assert torch.equal(*fibre)


def test_the_only_things_of_two_models_mean_the_same() -> None:
    cells = (CLASSES[0], ClassSpec(id=1, name="cell", kind="thing"))
    nuclei = (CLASSES[0], ClassSpec(id=1, name="nucleus", kind="thing"))
    assert alike(nuclei, cells) == {0: 0, 1: 1}


def test_a_head_that_is_not_wanted_stays_behind() -> None:
    _, network = begun(MethodSettings(name="semantic"), CLASSES)
    expected = said(model().network)["semantic"]
    assert torch.allclose(said(network)["semantic"], expected, atol=1e-4)


def settings_with(**given: object) -> TrainSettings:
    return TrainSettings.model_validate({"data": "d", "output": "o", "pretrained": "m"} | given)


def test_the_network_and_what_it_sees_are_the_models() -> None:
    filled = Pretrained("m", model()).fill_in(settings_with(normalize={"high": 99}))
    assert filled.network == SPEC.network
    assert filled.channels == 3
    assert filled.normalize == NormalizeSettings(kind="percentile", low=2, high=99)


def test_a_bundle_that_names_no_full_resolution_has_a_whole_one() -> None:
    spec = SPEC.model_copy(update={"network": NetworkSettings(depth=2, width=4)})
    before = Pretrained("m", ModelBundle(spec, build_network(spec)))
    assert before.fill_in(settings_with()).network.full_resolution == "full"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"network": {"width": 32}}, r"setting network.width: 32, but the network of m has 4; "),
        ({"network": {"norm": "batch"}}, r"setting network.norm: batch, .* m has weight; "),
        ({"channels": 1}, r"setting channels: 1, but the network of m has 3; leave it out, or"),
    ],
)
def test_another_network_is_refused(given: dict[str, object], line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        Pretrained("m", model()).fill_in(settings_with(**given))


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a model bundle"):
        find_pretrained(settings_with(pretrained=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_few_steps_are_enough_for_what_the_model_knows(
    trained: str, annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, output = load_spec(trained), tmp_path / "model"
    settings = TrainSettings(
        data=annotated, output=str(output), pretrained=trained, epochs=1, min_steps=2, crop=64,
        batch_size=2,
    )  # fmt: skip
    assert train.work(settings) == 0
    after, told = load_spec(str(output)), " ".join(capsys.readouterr().out.split())
    assert after.network == before.network
    assert after.metrics["ap_0.5"] > before.metrics["ap_0.5"] - 0.1
    assert "it knows background, tissue, cell and crystal" in told
    assert f"pretrained: {trained}" in (output / "README.md").read_text()
