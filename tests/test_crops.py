"""Crops: the same whoever makes them, label and image together, and what they show."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config import (
    MOST_TILT,
    AugmentSettings,
    MethodSettings,
    NormalizeSettings,
    SamplingSettings,
)
from pipeline.images.normalize import IntensityRange
from pipeline.labels import open_data, read_sample
from pipeline.methods import build_method
from pipeline.records import Label, Sample
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training.crops import ANY_OBJECT, CropSource, Cut, Pick
from pipeline.training.geometry import (
    cut_plain,
    cut_window,
    draw_geometry,
    is_plain,
    sample_linear,
    sample_nearest,
    sampling_grid,
)
from pipeline.training.intensity import change_intensity, draw_intensity
from pipeline.training.samples import CachedSamples


def source(
    annotated: str, sampling: SamplingSettings | None = None, **augment: object
) -> CropSource:
    return crops_of(samples_in(annotated), sampling, **augment)


def samples_in(annotated: str) -> list[Sample]:
    data = open_data(annotated, val_fraction=0.2)
    return [read_sample(image, data.classes, data.void) for image in data.split("train")]


def crops_of(
    samples: list[Sample],
    sampling: SamplingSettings | None = None,
    channels: int = 3,
    **augment: object,
) -> CropSource:
    return CropSource(
        CachedSamples(samples, channels, NormalizeSettings()),
        build_method(MethodSettings(name="instance"), CLASSES),
        channels=channels,
        crop=64,
        augment=AugmentSettings(**augment),
        sampling=sampling or SamplingSettings(),
        seed=3,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("world", [2, 4])
def test_crops_are_the_same_however_many_workers(annotated: str, world: int) -> None:
    crops = source(annotated)
    whole = list(crops.batches(epoch=2, steps=3, batch_size=4, rank=0, world=1))
    parts = [list(crops.batches(2, 3, 4, rank, world)) for rank in range(world)]
    for step, batch in enumerate(whole):
        for rank in range(world):
            assert torch.allclose(batch.images[rank::world], parts[rank][step].images, atol=1e-3)
            for name, target in batch.targets.items():
                assert torch.equal(target[rank::world], parts[rank][step].targets[name])
    for part, batch in enumerate(crops.batches(2, 3, 5, 1, 2, first=1, parts=2)):
        step, rest = divmod(part, 2)
        whole_step = list(crops.batches(2, 3, 5, 0, 1))[1 + step].images
        expected = whole_step[3:][1::2] if rest else whole_step[:3][1::2]
        assert torch.allclose(batch.images, expected, atol=1e-3)
    other = next(crops.batches(3, 1, 4, 0, 1))
    assert not torch.equal(other.images, whole[0].images)


def test_every_image_is_seen_in_an_epoch(annotated: str) -> None:
    crops = source(annotated)
    assert {image for image, _ in crops.order(1, len(crops))} == set(range(len(crops.shares)))
    assert len(crops.order(1, 3 * len(crops) + 1)) == 3 * len(crops) + 1


def test_an_offset_of_numbers_of_32_bits_changes_nothing(annotated: str) -> None:
    samples = samples_in(annotated)
    near, far = (
        crops_of([replace(s, pixels=s.pixels.astype(np.int32) + offset) for s in samples])
        for offset in (0, 1 << 30)
    )
    one, other = (next(iter(crops.batches(1, 1, 4, 0, 1))).images for crops in (near, far))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("stored", "seen"), [(1, 1), (3, 1), (1, 3), (3, 3), (1, 5), (5, 5)])
def test_images_of_any_channels_that_fit_a_network_are_seen_by_it(
    stored: int, seen: int, dtype: type
) -> None:
    """Gray images that are stored as three equal channels ended a training at its first step."""
    samples = []
    for seed, (height, width) in enumerate([(96, 64), (20, 200), (1, 1)]):
        scene = make_scene(96, 200, 6, seed)
        window = (slice(height), slice(width))
        pixels = scene.image[window][..., :1].repeat(stored, axis=-1).astype(dtype)
        label = Label(scene.label.semantic[window], scene.label.instances[window])
        samples.append(Sample(str(seed), pixels, label))
    crops = crops_of(samples, channels=seen)
    for batch in crops.batches(1, 2, 6, 0, 1):
        assert batch.images.shape == (6, seen, 64, 64)
        assert torch.isfinite(batch.images).all()
        assert batch.images.any()


def test_a_rare_class_is_shown_as_often_as_asked(annotated: str) -> None:
    shown = {}
    for share in (0.0, 1.0):
        crops = source(annotated, SamplingSettings(rare_class=share))
        batches = crops.batches(1, 40, 4, 0, 1)
        shown[share] = np.mean([(b.targets["semantic"] == 3).float().mean() for b in batches])
        wanted = [pick.focus for _, pick in crops.order(1, 400)]
        assert wanted.count(3) == pytest.approx(133 * share, abs=30)  # one class of three,
        assert 0 not in wanted  # for the background is in every crop
    assert shown[1.0] > shown[0.0]


def test_crops_show_an_object_when_asked() -> None:
    """One small object in a large image."""
    semantic = np.zeros((600, 900), np.uint8)
    semantic[500:505, 30:36] = 2
    pixels = np.zeros((600, 900, 1), np.uint8)
    sample = Sample("one", pixels, Label(semantic, (semantic > 0).astype(np.int32)))
    seen = {}
    for share in (0.0, 1.0):
        crops = CropSource(
            CachedSamples([sample], 3, NormalizeSettings()),
            build_method(MethodSettings(name="instance"), CLASSES),
            channels=3,
            crop=64,
            augment=AugmentSettings(),
            sampling=SamplingSettings(objects=share),
            seed=0,
            device=torch.device("cpu"),
        )
        shows = [b.targets["semantic"] == 2 for b in crops.batches(1, 10, 4, 0, 1)]
        seen[share] = sum(int(one.flatten(1).any(1).sum()) for one in shows)
    assert seen[1.0] >= 38  # of 40; a displacement may push it over the rim
    assert seen[0.0] < 15


def test_a_crop_of_a_large_image_does_not_look_through_all_of_it() -> None:
    """It took five seconds a crop of 10,000 x 10,000 pixels, and copies of it."""
    side = 2000
    instances = np.zeros((side, side), np.int32)
    instances[:, :900] = 1
    instances[100:200, 1500:1600] = 2
    instances[5, 1990] = 3  # one pixel: only who looks everywhere finds it
    semantic = np.where(instances > 0, 2, 0).astype(np.uint8)
    semantic[instances == 3] = 3
    pixels, still = np.zeros((side, side, 1), np.uint8), AugmentSettings(warp_share=0)
    cut, bounds = Cut(64, still, seed=0), IntensityRange(np.zeros(1), np.ones(1))

    def shown(focus: int, times: int, ids: np.ndarray) -> list[set[int]]:
        sample = Sample("large", pixels, Label(semantic, ids))
        windows = [cut(sample, bounds, Pick(1, number, focus)) for number in range(times)]
        return [set(np.unique(one.label.instances).tolist()) - {0} for one in windows]

    tracemalloc.start()
    drawn = shown(ANY_OBJECT, 60, instances)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < instances.nbytes / 2
    assert all(drawn)
    assert 15 < drawn.count({2}) < 45  # objects are drawn evenly, however large
    assert shown(3, 1, instances) == [{3}]
    assert shown(ANY_OBJECT, 1, instances * 0) == [set()]


def test_labels_move_with_their_pixels(annotated: str) -> None:
    """Crystals are the brightest things: under any geometry their label lies on them."""
    crops = source(annotated, intensity=0, noise=0, invert_share=0, stain=0)
    for batch in crops.batches(1, 5, 4, 0, 1):
        gray, semantic = batch.images.mean(1), batch.targets["semantic"]
        crystal, tissue = gray[semantic == 3], gray[semantic == 1]
        assert crystal.mean() > tissue.mean() + 0.3


@pytest.mark.parametrize("shape", [(64, 64), (20, 90), (1, 1), (300, 200)])
def test_without_changes_a_crop_is_a_piece_of_its_image(shape: tuple[int, int]) -> None:
    """Mirrored about its border where the image ends."""
    rng = np.random.default_rng(0)
    height, width = shape
    pixels = rng.integers(0, 256, (height, width), np.uint8)
    settings = AugmentSettings(flip=False, rotate=False, scale=1, elastic=0)
    drawn = draw_geometry(height, width, 64, settings, rng)
    drawn = replace(drawn, matrix=np.rint(drawn.matrix))
    box, inside = cut_window(height, width, 64, drawn)
    window = torch.from_numpy(pixels[box].astype(np.float32))[None, None]
    grid = sampling_grid([inside], [(window.shape[2], window.shape[3])], 64, torch.device("cpu"))
    x0, y0 = drawn.matrix[:, 2].astype(int)
    rows, columns = mirrored(y0, height), mirrored(x0, width)
    expected = pixels[np.ix_(rows, columns)]
    assert np.array_equal(sample_nearest(window, grid)[0, 0].numpy(), expected)
    assert np.allclose(sample_linear(window, grid)[0, 0].numpy(), expected, atol=0.1)


@pytest.mark.parametrize("shape", [(100, 90), (20, 40), (1, 3)])
def test_crops_that_are_not_warped_are_what_the_grid_would_give(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, shape, np.uint8)
    turned = set()
    for _ in range(24):
        drawn = draw_geometry(*shape, 64, AugmentSettings(warp_share=0), rng)
        box, inside = cut_window(*shape, 64, drawn)
        window = pixels[box]
        grid = sampling_grid([inside], [window.shape], 64, torch.device("cpu"))
        expected = sample_nearest(torch.from_numpy(window.astype(np.int32))[None, None], grid)
        assert is_plain(inside)
        assert np.array_equal(cut_plain(window, inside, 64), expected[0, 0].numpy())
        turned.add(inside.matrix[:, :2].tobytes())
    assert len(turned) > 4
    assert not is_plain(draw_geometry(*shape, 64, AugmentSettings(warp_share=1), rng))


def test_upright_images_stay_upright() -> None:
    settings, rng = AugmentSettings(upright=True, warp_share=0.5), np.random.default_rng(2)
    drawn = [draw_geometry(90, 90, 64, settings, rng).matrix for _ in range(60)]
    down = np.array([matrix[:, 1] for matrix in drawn])  # where the crop's y leads in the image
    tilt = np.degrees(np.arctan2(np.abs(down[:, 0]), down[:, 1]))
    assert 1 < tilt.max() <= MOST_TILT
    assert {bool(matrix[0, 0] > 0) for matrix in drawn} == {True, False}  # mirrored left to right


def mirrored(start: int, size: int) -> np.ndarray:
    period = max(2 * (size - 1), 1)
    folded = np.abs(np.arange(start, start + 64)) % period
    return np.minimum(np.minimum(folded, np.abs(period - folded)), size - 1)


def test_stain_changes_touch_colour_only() -> None:
    settings = AugmentSettings(intensity=0, noise=0, gray_share=0, invert_share=0, blur_share=0)
    purple = torch.tensor([0.6, 0.4, 0.7]).view(1, 3, 1, 1).expand(2, 3, 8, 8).contiguous()
    changes = [
        draw_intensity(3, colour, settings, np.random.default_rng(1)) for colour in (True, False)
    ]
    changed = change_intensity(purple.clone(), changes)
    assert (changed[0] - purple[0]).abs().max() > 0.01
    assert torch.equal(changed[1], purple[1])


def test_blur_keeps_the_mean_and_inversion_exchanges_dark_and_bright() -> None:
    off = AugmentSettings(intensity=0, noise=0, gray_share=0, stain=0, blur_share=0, invert_share=0)
    rng = np.random.default_rng(0)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurring = off.model_copy(update={"blur_share": 1.0})
    smooth = change_intensity(image, [draw_intensity(3, True, blurring, rng)])
    assert smooth.mean() == pytest.approx(float(image.mean()), abs=0.01)
    assert smooth.std() < 0.8 * image.std()
    inverting = off.model_copy(update={"invert_share": 1.0})
    inverted = change_intensity(image, [draw_intensity(3, True, inverting, rng)])
    assert torch.allclose(inverted, 1 - image)
    same = change_intensity(image, [draw_intensity(3, True, off, rng)])
    assert torch.allclose(same, image, atol=1e-6)
