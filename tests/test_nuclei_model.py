"""The model that ships: small, safe, told about, and of use on real nuclei."""

from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from pipeline.config import RegionSettings
from pipeline.labels import open_data, read_sample
from pipeline.methods import build_method
from pipeline.models.weights import load_bundle
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.predictor import Predictor
from tests.conftest import ROOT
from tests.matching import match_objects

NUCLEI = ROOT / "models/nuclei"


def test_it_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in NUCLEI.iterdir()) < 8 << 20
    tensors = safetensors.torch.load((NUCLEI / "weights.safetensors").read_bytes())
    assert {t.dtype for t in tensors.values() if t.dim() > 1} == {torch.bfloat16}
    card = (NUCLEI / "README.md").read_text()
    for word in ("CC0", "AP at IoU", "python -m jobs.predict", "Calibration"):
        assert word in card
    assert (NUCLEI / "curve.png").read_bytes().startswith(b"\x89PNG")
    settings = (NUCLEI / "settings.yaml").read_text()
    assert "/" not in settings.split("data:")[1].split("\n")[0]  # no path of a machine


def test_it_finds_real_nuclei(dsb2018: Path) -> None:
    bundle = load_bundle(str(NUCLEI))
    method = build_method(bundle.spec.method, bundle.spec.classes)
    engine = TorchEngine(bundle.network, method, torch.device("cpu"), torch.float32)
    predictor = Predictor(engine, bundle.spec.channels, bundle.spec.normalize, RegionSettings())
    data = open_data(str(dsb2018))
    found = []
    for image in data.split("val")[::6]:
        sample = read_sample(image, data.classes, data.void)
        (maps,) = predictor.predict([predictor.prepare(sample.pixels)])
        found.append(match_objects(sample.label.instances, method.decode(maps).instances).ap)
    assert np.mean(found, axis=0)[0] > 0.7
