"""Annotated images as a network sees them that enlarges or reduces them."""

import numpy as np
import pytest
import torch

from pipeline.config import MethodSettings, NormalizeSettings, PredictSettings
from pipeline.methods import build_method
from pipeline.predicting.zoom import Zoom
from pipeline.records import Label, Sample
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training.samples import CachedSamples
from pipeline.training.validation import build_predictor, look
from pipeline.training.zooming import zoomed, zoomed_side
from tests.overlapping import see_through
from tests.test_tuning import network_for, settings_with

ZOOMS = [0.125, 0.5, 0.625, 0.75, 1, 1.5, 2]


@pytest.mark.parametrize("zoom", ZOOMS)
@pytest.mark.parametrize("shape", [(47, 64), (8, 3), (1, 1)])
def test_pixels_and_labels_stay_together(shape: tuple[int, int], zoom: float) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, shape).astype(np.int32)
    # Constant over an image: what is made of it is that, whatever the size and the margins are.
    pixels = np.full((*shape, 2), (7, 50_000), np.uint16)
    seen = zoomed(Sample("a", pixels, Label((ids > 0).astype(np.uint8), ids)), Zoom.of(zoom))
    # Row by row, or each crop that looks for an object would copy all of it.
    assert seen.label.instances.flags.c_contiguous
    sides = tuple(zoomed_side(side, Zoom.of(zoom)) for side in shape)
    assert seen.label.instances.shape == seen.label.semantic.shape == sides
    assert seen.pixels.shape == (*sides, 2)
    assert np.allclose(seen.pixels, (7, 50_000))
    assert np.array_equal(seen.label.semantic, seen.label.instances > 0)
    more = zoom * Zoom.of(zoom).stride(1)  # of what is begun and filled up
    assert all(0 <= side - n * zoom < more for side, n in zip(sides, shape, strict=True))


def test_what_was_enlarged_is_as_before_once_it_is_reduced() -> None:
    scene = make_scene(64, 96, 8, seed=1)
    large = Sample(
        "large",
        scene.image.repeat(2, 0).repeat(2, 1),
        Label(
            *(m.repeat(2, 0).repeat(2, 1) for m in (scene.label.semantic, scene.label.instances))
        ),
    )
    seen = zoomed(large, Zoom.of(0.5))
    assert np.array_equal(seen.label.semantic, scene.label.semantic)
    assert np.array_equal(seen.label.instances, scene.label.instances)
    assert np.corrcoef(seen.pixels.ravel(), scene.image.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("zoom", [0.5, 0.75, 2])
def test_objects_that_overlap_stay_whole(zoom: float) -> None:
    pixels, label = see_through(60, 80, 12, seed=2)
    assert label.objects
    seen = zoomed(Sample("a", pixels, label), Zoom.of(zoom)).label
    drawn = {one.id: one for one in seen.objects}
    for one in label.objects:
        alone = np.zeros(label.instances.shape, np.int32)
        alone[one.box.y0 : one.box.y1, one.box.x0 : one.box.x1] = one.mask()
        expected = zoomed(Sample("b", pixels, Label(label.semantic, alone)), Zoom.of(zoom))
        box = drawn[one.id].box
        found = np.zeros(seen.instances.shape, bool)
        found[box.y0 : box.y1, box.x0 : box.x1] = drawn[one.id].mask()
        assert np.array_equal(found, expected.label.instances > 0)
    tiny = zoomed(Sample("a", pixels, label), Zoom.of(0.125)).label
    assert all(one.mask().any() for one in tiny.objects)


def test_training_sees_them_small_and_answers_in_their_own_pixels() -> None:
    scene = make_scene(90, 70, 5, seed=0)
    sample = Sample("a", scene.image, scene.label)
    assert CachedSamples([sample], 3, NormalizeSettings(), 0.5).sizes == [(45, 35)]
    method = build_method(MethodSettings(name="instance"), CLASSES)
    settings = settings_with(method.settings).model_copy(update={"zoom": 0.5})
    place = torch.device("cpu"), torch.float32
    predictor = build_predictor(network_for(method), method, 3, settings, *place)
    (seen,) = look(predictor, [sample], [0]).values()
    assert {plane.shape for plane in seen.maps.values()} == {(90, 70)}


@pytest.mark.parametrize("own", [0.5, 0.25, 2])
def test_a_models_zoom_is_as_a_jobs(own: float) -> None:
    """And both of them multiply."""
    trained = MethodSettings(name="instance", reach=64, min_area=8)

    def decoding(zoom: float, job: float) -> MethodSettings:
        asked = PredictSettings(input="i", model="m", output="o", zoom=job)
        return asked.decoding(trained, zoom)

    assert decoding(own, 1) == decoding(1, own) == decoding(2 * own, 0.5)
    assert decoding(own, 1).reach == 64 / own
    learned = trained.model_copy(update={"min_score": 0.4, "vote_blur": 0.2})
    kept = trained.with_learned(learned.in_image(own))
    assert kept == learned, "what counts pixels is the network's again"
