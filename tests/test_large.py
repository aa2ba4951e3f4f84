"""Law 3: tiled equals whole, the same objects, masks and counts, whatever the parts are."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import MethodSettings, NormalizeSettings, RegionSettings
from pipeline.images import intensities
from pipeline.images.normalize import measure_range, normalize
from pipeline.images.windows import WholeImage
from pipeline.methods import build_method
from pipeline.models.weights import ModelBundle, load_bundle
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.predictor import Predictor
from pipeline.records import Box, ClassSpec
from pipeline.synthetic import make_scene
from tests.conftest import ROOT
from tests.large_images import (
    Tables,
    assert_same,
    cut_maps,
    imagined_maps,
    in_parts,
    nasty_scene,
    network_maps,
    whole,
)

CLASSES = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="nucleus", kind="thing"),
    ClassSpec(id=3, name="fibre", kind="thing"),
    ClassSpec(id=4, name="dirt", kind="stuff"),
)


def seeds(fast: int, slow: int, most: int) -> list[Any]:
    """Cases, of which the first are fast ones and the last are left to `make test-soak`."""
    marked = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(fast, slow)]
    return [
        *range(fast),
        *marked,
        *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(slow, most)),
    ]


@pytest.mark.parametrize("seed", seeds(4, 8, 20))
@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_parts_are_as_the_whole(tmp_path: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(300, 900, 2))
    side = int(rng.integers(40, 300))
    pixels, label = nasty_scene(height, width, seed)
    label.semantic[label.instances % 5 == 1] = 3
    settings = MethodSettings(
        name=name, reach=32, score_slope=1.7, score_shift=-0.4, score_size=0.3
    )
    method = build_method(settings, CLASSES)
    maps = imagined_maps(method, label, seed)
    expected = whole(tmp_path / "whole", method, maps, pixels)
    found = in_parts(
        tmp_path / "parts", method, side, pixels, cut_maps(maps), backwards=seed % 2 == 1
    )
    assert len(expected.objects) > 20
    assert_same(found, expected)


@pytest.mark.parametrize("seed", seeds(2, 4, 10))
@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_parts_leave_out_the_doubtful_objects_of_the_whole(
    tmp_path: Path, name: str, seed: int
) -> None:
    """Also those that lie across parts, of which no part alone knows how sure they are."""
    pixels, label = nasty_scene(420, 380, seed)
    label.semantic[label.instances % 5 == 1] = 3
    settings = MethodSettings(
        name=name, reach=32, score_slope=1.7, score_shift=-0.4, score_size=0.3
    )
    maps = imagined_maps(build_method(settings, CLASSES), label, seed)
    scores = build_method(settings, CLASSES).decode(maps).scores
    least = float(np.median(scores))
    method = build_method(settings.model_copy(update={"min_score": least}), CLASSES)
    expected = whole(tmp_path / "whole", method, maps, pixels)
    found = in_parts(tmp_path / "parts", method, 60 + 50 * seed, pixels, cut_maps(maps))
    assert len(expected.objects) == (scores >= np.float32(least)).sum() < len(scores)
    assert_same(found, expected)


def test_a_part_full_of_specks_needs_little_more_memory_than_pixels(tmp_path: Path) -> None:
    """A network that is lost in noise finds tens of thousands of objects where few are."""
    side = 512
    specks = np.zeros((side, side), np.uint8)
    specks[::2, ::2] = 1
    method = build_method(MethodSettings(name="semantic", min_area=1), CLASSES)
    maps = {"class": specks, "confidence": np.full_like(specks, 200)}
    tracemalloc.start()
    found = in_parts(tmp_path, method, side, specks[..., None], cut_maps(maps))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.objects) == side**2 // 4
    assert peak < 400 * side**2


@pytest.fixture(scope="module")
def nuclei() -> ModelBundle:
    """The real network that ships."""
    return load_bundle(str(ROOT / "models/nuclei"))


def engine(bundle: ModelBundle, dtype: torch.dtype) -> TorchEngine:
    method = build_method(bundle.spec.method, bundle.spec.classes)
    return TorchEngine(bundle.network, method, torch.device("cpu"), dtype)


def both_ways(
    bundle: ModelBundle, dtype: torch.dtype, seed: int, folder: Path
) -> tuple[Tables, Tables]:
    """A scene predicted at once, and in parts of its own."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(250, 700, 2))
    pixels, _ = nasty_scene(height, width, seed)
    runs = engine(bundle, dtype)
    normalize = bundle.spec.normalize

    def predictor(size: int) -> Predictor:
        return Predictor(runs, bundle.spec.channels, normalize, RegionSettings(size=size))

    at_once = predictor(1024)
    maps = network_maps(at_once, pixels)(Box(0, 0, height, width))
    tiled = predictor(int(rng.integers(96, 256)))
    side = tiled.cutting.side_of_parts(1)
    maps_of = network_maps(tiled, pixels)
    return (
        whole(folder / "whole", runs.method, maps, pixels),
        in_parts(folder / "parts", runs.method, side, pixels, maps_of),
    )


@pytest.mark.parametrize("seed", seeds(0, 6, 40))
def test_the_real_network_in_parts_is_as_at_once(
    nuclei: ModelBundle, seed: int, tmp_path: Path
) -> None:
    at_once, in_parts = both_ways(nuclei, torch.float32, seed, tmp_path)
    assert len(at_once.objects) > 20
    assert_same(in_parts, at_once)


@pytest.mark.parametrize("seed", seeds(0, 3, 10))
def test_the_real_network_in_bfloat16(nuclei: ModelBundle, seed: int, tmp_path: Path) -> None:
    """Where sums are rounded to 8 bits, pixels may differ, and no object is lost or doubled."""
    at_once, in_parts = both_ways(nuclei, torch.bfloat16, 40 + seed, tmp_path)
    assert len(in_parts.objects) == len(at_once.objects) > 20
    a, b = at_once.instances, in_parts.instances
    pairs, overlap = np.unique(
        np.stack([a.ravel(), b.ravel()])[:, (a > 0).ravel() & (b > 0).ravel()],
        axis=1, return_counts=True,
    )  # fmt: skip
    areas = np.bincount(a.ravel()), np.bincount(b.ravel())
    iou = overlap / (areas[0][pairs[0]] + areas[1][pairs[1]] - overlap)
    matched = iou > 0.5
    assert matched.sum() == len(at_once.objects)
    assert iou[matched].mean() > 0.99


@pytest.mark.parametrize("side", [100, 300])
def test_intensities_are_measured_by_a_rule_of_the_size_alone(
    nuclei: ModelBundle, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """From a sample of a larger image, whether it is then predicted at once or in parts."""
    monkeypatch.setattr(intensities, "_SAMPLE", 128**2)
    monkeypatch.setattr(intensities, "_CELL", 32)
    pixels = np.random.default_rng(0).normal(100, 9, (side, side + 7, 3)).clip(0, 255)
    pixels = (pixels + np.linspace(0, 99, side + 7)[:, None]).astype(np.uint8)
    runs = engine(nuclei, torch.float32)
    predictor = Predictor(runs, 3, NormalizeSettings(), RegionSettings())
    bounds = intensities.image_range(WholeImage(pixels), 3, NormalizeSettings())
    assert np.array_equal(predictor.prepare(pixels), normalize(pixels, bounds))
    everything = measure_range(pixels, NormalizeSettings())
    assert np.array_equal(bounds.high, everything.high) == (side == 100)
    assert np.abs(bounds.high - everything.high).max() < 9


@pytest.mark.parametrize("seed", seeds(0, 1, 6))
def test_objects_larger_than_parts_and_their_halo(trained: str, seed: int, tmp_path: Path) -> None:
    """Regions of 16 pixels, which objects span three and more of, in a trained network's maps."""
    bundle = load_bundle(trained)
    runs = engine(bundle, torch.float32)
    scene = make_scene(190, 230, 60, seed)
    tiled, at_once = (
        Predictor(runs, bundle.spec.channels, bundle.spec.normalize, RegionSettings(size=size))
        for size in (16, 1024)
    )
    maps = network_maps(at_once, scene.image)(Box(0, 0, 190, 230))
    expected = whole(tmp_path / "whole", runs.method, maps, scene.image)
    sizes = expected.objects["y1"].to_numpy() - expected.objects["y0"].to_numpy()
    assert sizes.max() > 18
    maps_of = network_maps(tiled, scene.image)
    assert_same(in_parts(tmp_path / "parts", runs.method, 16, scene.image, maps_of), expected)
