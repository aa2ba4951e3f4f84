"""Law 3 for the network's maps: tiled equals whole."""

from typing import Literal

import numpy as np
import pytest
import torch

from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings, RegionSettings
from pipeline.methods import build_method
from pipeline.models.blocks import BatchNorm, StandardConv
from pipeline.models.unet import UNet
from pipeline.predicting.engine import TorchEngine, fold_norms, look
from pipeline.predicting.predictor import Predictor
from pipeline.predicting.regions import cut_regions
from pipeline.predicting.zoom import NO_ZOOM, Zoom
from pipeline.records import Box, Maps
from pipeline.synthetic import CLASSES, make_scene


@pytest.mark.parametrize("shape", [(1, 1), (50, 50), (64, 64), (65, 200), (300, 17)])
@pytest.mark.parametrize("size", [16, 64, 100])
def test_cores_tile_the_image_exactly(shape: tuple[int, int], size: int) -> None:
    covered = np.zeros(shape, int)
    for region in cut_regions(*shape, size=size, halo=20, stride=16):
        core, read = region.core, region.read
        covered[core.y0 : core.y1, core.x0 : core.x1] += 1
        assert Box(max(read.y0, 0), max(read.x0, 0), *read[2:]) == read
        assert read.y0 % 16 == read.x0 % 16 == 0
        assert min(core.y0 - read.y0, 20) == min(core.y0, 20)
        assert min(read.y1 - core.y1, 20) == min(shape[0] - core.y1, 20)
    assert (covered == 1).all()


@pytest.fixture(scope="module", params=["full", "light"])
def engine(request: pytest.FixtureRequest) -> TorchEngine:
    torch.manual_seed(0)
    method = build_method(MethodSettings(name="instance"), CLASSES)
    network = UNet(
        NetworkSettings(depth=2, width=8, full_resolution=request.param), 3, method.heads
    )
    with torch.no_grad():  # statistics as after training, so that the maps are not flat
        for i in range(40):
            image = torch.from_numpy(make_scene(64, 64, 8, i).image).permute(2, 0, 1)
            network(image[None] / 128)
        for head in network.heads.values():
            head.weight *= 10
    return TorchEngine(network, method, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(("size", "shape"), [(32, (150, 131)), (48, (97, 260)), (64, (128, 128))])
def test_tiled_equals_whole(engine: TorchEngine, size: int, shape: tuple[int, int]) -> None:
    image = make_scene(*shape, 40, 7).image
    whole, tiled = (
        Predictor(engine, 3, NormalizeSettings(), RegionSettings(size=side))
        for side in (1024, size)
    )
    expected = whole.predict([whole.prepare(image)])[0]
    found = tiled.predict([tiled.prepare(image)])[0]
    assert len(np.unique(expected["foreground"])) > 20
    assert_same_maps(found, expected)


def assert_same_maps(found: Maps, expected: Maps) -> None:
    """But for sums that another order of adding up rounds the other way.

    Then a value is a step of 255 away, and of two classes that are equally likely it is the other.
    """
    for name, plane in expected.items():
        if name in ("foreground", "offset_y", "offset_x"):
            assert np.abs(plane.astype(int) - found[name]).max() <= 1, name
        else:
            assert (plane != found[name]).mean() < 0.001, name


@pytest.mark.parametrize("blend", ["core", "gaussian"])
def test_a_part_has_the_maps_of_the_whole(engine: TorchEngine, blend: str) -> None:
    """Whatever part is asked for, with as little of the image as it says that it needs."""
    image = make_scene(200, 310, 60, 3).image
    settings = RegionSettings(size=48, halo=8, blend=blend)
    predictor = Predictor(engine, 3, NormalizeSettings(), settings)
    prepared = predictor.prepare(image)
    (whole,) = predictor.predict([prepared])
    for core in (Box(0, 0, 48, 96), Box(48, 96, 144, 192), Box(144, 288, 200, 310)):
        box = predictor.cutting.window(core, 200, 310)
        window = prepared[box.y0 : box.y1, box.x0 : box.x1]
        part = predictor.predict_core(window, (box.y0, box.x0), core, (200, 310))
        for name, plane in whole.items():
            expected = plane[core.y0 : core.y1, core.x0 : core.x1].astype(int)
            # Sums in another order may round one step of 255 the other way, no more.
            assert np.abs(expected - part[name]).max() <= 1, name


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.5, 2])
@pytest.mark.parametrize("shape", [(150, 131), (1, 300)])
def test_tiled_equals_whole_at_any_zoom(
    engine: TorchEngine, factor: float, shape: tuple[int, int]
) -> None:
    engine.zoom = Zoom.of(factor)
    try:
        image = make_scene(*shape, 40, 7).image
        predictors = [
            Predictor(engine, 3, NormalizeSettings(), RegionSettings(size=side))
            for side in (1024, 24)
        ]
        expected, found = (p.predict([p.prepare(image)])[0] for p in predictors)
        assert len(np.unique(expected["foreground"])) > 10
        for name, plane in expected.items():
            assert plane.shape == shape
            if name in ("foreground", "offset_y", "offset_x"):
                assert np.abs(plane.astype(int) - found[name]).max() <= 1, name
    finally:
        engine.zoom = NO_ZOOM


def test_regions_of_zoomed_images_are_whole_pixels_of_the_network() -> None:
    for factor in np.arange(1, 33) / 8:
        zoom = Zoom.of(float(factor))
        stride = zoom.stride(16)
        assert stride * factor == zoom.seen(stride)
        assert zoom.seen(stride) % 16 == 0
        assert zoom.side(1000) * max(factor, 1) <= 1000
        assert zoom.context(100) * factor >= 100
    assert (Zoom.of(2).stride(16), Zoom.of(0.5).stride(16), Zoom.of(1.5).stride(16)) == (8, 32, 32)


def test_blending_softens_the_seams_of_too_small_a_halo(engine: TorchEngine) -> None:
    """With less than the network's context, neighbours disagree where their cores meet."""
    image = make_scene(240, 240, 60, 9).image
    excess = {}
    for blend in ("core", "gaussian"):
        settings = RegionSettings(size=24, halo=12, blend=blend)
        predictor = Predictor(engine, 3, NormalizeSettings(), settings)
        exact = Predictor(engine, 3, NormalizeSettings(), RegionSettings())
        truth = exact.predict([exact.prepare(image)])[0]["foreground"].astype(int)
        found = predictor.predict([predictor.prepare(image)])[0]["foreground"].astype(int)
        error = found - truth
        jump = np.abs(np.diff(error, axis=0)).mean(1)
        seams = np.arange(24, 240, 24) - 1
        excess[blend] = jump[seams].mean() - np.delete(jump, seams).mean()
    assert 0 < excess["gaussian"] < 0.9 * excess["core"]


def test_what_is_no_number_is_no_map(engine: TorchEngine) -> None:
    """An image would come out as one without objects."""
    predictor = Predictor(engine, 3, NormalizeSettings(), RegionSettings(size=32))
    image = predictor.prepare(make_scene(100, 100, 20, 1).image)
    image[90, 90] = np.nan
    with pytest.raises(FloatingPointError):
        predictor.predict([image])


def test_sharing_a_batch_changes_nothing(engine: TorchEngine) -> None:
    predictor = Predictor(engine, 3, NormalizeSettings(), RegionSettings())
    shapes = [(60, 60), (64, 64), (57, 61), (20, 90), (1, 1)]
    images = [predictor.prepare(make_scene(*shape, 5, i).image) for i, shape in enumerate(shapes)]
    together = predictor.predict(images)
    for image, maps in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        for name in maps:
            assert np.abs(alone[name].astype(int) - maps[name]).max() <= 1


@pytest.mark.parametrize("norm", ["weight", "batch"])
def test_folded_network_says_the_same(norm: Literal["weight", "batch"]) -> None:
    torch.manual_seed(1)
    network = UNet(NetworkSettings(depth=2, width=4, norm=norm), 1, {"out": 2})
    network(torch.rand(4, 1, 32, 32))
    network.eval()
    x = torch.rand(1, 1, 40, 40)
    with torch.inference_mode():
        expected = network(x)["out"].clone()
        folded = fold_norms(network)
        assert torch.allclose(folded(x)["out"], expected, atol=1e-5)
    kinds = {type(module) for module in folded.modules()}
    assert not kinds & {StandardConv, BatchNorm}


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_views_are_put_upright_again(views: int) -> None:
    """A network that returns its input: whatever the views, the average is the input."""
    batch = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    class Copy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(x)
            return {"copy": x}

    assert torch.allclose(look(Copy(), batch, views)["copy"], batch)
    assert len({(one.shape, one.flatten()[0].item()) for one in seen}) == views


@pytest.mark.parametrize("shape", [(150, 170), (64, 200)])
def test_tiled_equals_whole_in_every_view(engine: TorchEngine, shape: tuple[int, int]) -> None:
    engine.views = 8
    try:
        image = np.random.default_rng(0).random((*shape, 3), np.float32)
        whole, tiled = (
            Predictor(engine, 3, NormalizeSettings(), RegionSettings(size=size)).predict([image])[0]
            for size in (1024, 48)
        )
        assert_same_maps(tiled, whole)
    finally:
        engine.views = 1
