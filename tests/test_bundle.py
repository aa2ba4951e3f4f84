"""Law 7 for bundles: they load to what was saved, and nothing in them can execute."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings
from pipeline.errors import BundleError
from pipeline.models.bundle import UNFINISHED_NAME, WEIGHTS_NAME, BundleSpec, load_spec
from pipeline.models.weights import build_network, load_bundle, round_weights, save_bundle
from pipeline.storage import content_hash
from pipeline.synthetic import CLASSES

SPEC = BundleSpec(
    network=NetworkSettings(depth=2, width=4),
    channels=3,
    classes=CLASSES,
    method=MethodSettings(name="instance"),
    normalize=NormalizeSettings(),
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(SPEC, build_network(SPEC), str(tmp_path / "bundle"))
    return tmp_path / "bundle"


def change(bundle: Path, **values: object) -> None:
    path = bundle / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip(bundle: Path) -> None:
    first, second = load_bundle(str(bundle)), load_bundle(str(bundle))
    assert first.spec == second.spec == load_spec(str(bundle))
    x = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        assert torch.equal(first.network(x)["offset"], second.network(x)["offset"])


def test_fingerprint_is_of_what_changes_predictions(bundle: Path) -> None:
    spec = load_spec(str(bundle))
    assert spec.model_copy(update={"metrics": {"pq": 1.0}}).fingerprint == spec.fingerprint
    assert spec.model_copy(update={"weights_hash": "x"}).fingerprint != spec.fingerprint


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.mkdir, (self.marker,))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_in_place_of_weights_is_refused(bundle: Path, tmp_path: Path, how: str) -> None:
    weights, marker = bundle / "weights.safetensors", tmp_path / "executed"
    if how == "pickle":
        weights.write_bytes(pickle.dumps(Bomb(marker)))
    else:
        torch.save({"encoder.0.0.weight": Bomb(marker)}, weights)
    change(bundle, weights_hash=content_hash(weights.read_bytes()))
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(str(bundle))
    assert not marker.exists()


def test_a_pickle_beside_the_weights_is_not_read(bundle: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (bundle / "weights.pt").write_bytes(pickle.dumps(Bomb(marker)))
    load_bundle(str(bundle))
    (bundle / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match="has no weights"):
        load_bundle(str(bundle))
    assert not marker.exists()


def test_damage_is_named(bundle: Path) -> None:
    weights = bundle / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(BundleError, match=r"is not the file that bundle\.json was written with"):
        load_bundle(str(bundle))
    change(bundle, weights_hash=content_hash(whole[:-10]))
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(str(bundle))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"format_version": 99}, "is of format version 99, which this Tessera does not read: take"),
        ({"surprise": 1}, "surprise"),
        ({"network": {"depth": 2, "width": 8}}, "does not fit the network"),
        ({"method": {"name": "auto"}}, "takes a method, not auto"),
    ],
)
def test_specs_of_something_else_are_refused(
    bundle: Path, values: dict[str, object], line: str
) -> None:
    change(bundle, **values)
    with pytest.raises(BundleError, match=line):
        load_bundle(str(bundle))


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a model bundle: .* does not exist"):
        load_bundle(str(tmp_path))
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        load_bundle(str(tmp_path))


def test_rounded_weights_take_half_the_bytes_and_come_back_as_they_were(tmp_path: Path) -> None:
    network = build_network(SPEC)
    save_bundle(SPEC, network, str(tmp_path / "whole"))
    round_weights(network)
    save_bundle(SPEC, network, str(tmp_path / "rounded"))
    sizes = [(tmp_path / name / WEIGHTS_NAME).stat().st_size for name in ("whole", "rounded")]
    assert sizes[1] < 0.65 * sizes[0]
    loaded = load_bundle(str(tmp_path / "rounded")).network
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == tensor.dtype


@pytest.mark.parametrize("lacking", ["bundle.json", WEIGHTS_NAME, ""])
def test_half_a_bundle_of_a_training_on_its_way_says_what_ends_it(
    bundle: Path, lacking: str
) -> None:
    (bundle / UNFINISHED_NAME).write_text("{}")
    load_bundle(str(bundle))  # a finished model is there as long as its successor is trained
    if lacking:
        (bundle / lacking).unlink()
    else:
        (bundle / WEIGHTS_NAME).write_bytes(b"of the model that was there before")
    with pytest.raises(BundleError, match=r"a training that has not finished: .* --resume"):
        load_bundle(str(bundle))
