"""Measurements of objects, held against their definitions one object at a time."""

import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.exporting.geojson import outline, runs_in_image
from pipeline.predicting import merging
from pipeline.predicting.merging import decode_runs, encode_runs, merge_sums
from pipeline.predicting.objects import ObjectSums, measure_objects, measures_of, sum_objects
from pipeline.synthetic import make_scene


def test_every_measure_by_definition() -> None:
    scene = make_scene(120, 150, 40, 4)
    instances, n = scene.label.instances, int(scene.label.instances.max())
    found = measure_objects(instances, scene.image, n)
    assert n > 15
    for i in range(n):
        y, x = np.nonzero(instances == i + 1)
        assert found.areas[i] == len(y)
        assert found.boxes[i].tolist() == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert found.centroids[i] == pytest.approx([y.mean(), x.mean()])
        moments = np.cov(np.stack([y, x]), bias=True) + np.eye(2) / 12
        small, large = np.linalg.eigvalsh(moments)
        assert found.major_axes[i] == pytest.approx(4 * np.sqrt(large), rel=1e-4)
        assert found.minor_axes[i] == pytest.approx(4 * np.sqrt(small), rel=1e-4)
        assert found.eccentricities[i] == pytest.approx(np.sqrt(1 - small / large), abs=1e-3)
        values = scene.image[y, x].astype(float)
        assert found.intensity_means[i] == pytest.approx(values.mean(0), rel=1e-4)
        assert found.intensity_stds[i] == pytest.approx(values.std(0), abs=1e-2)
        at_border = y.min() == 0 or x.min() == 0 or y.max() == 119 or x.max() == 149
        assert found.truncated[i] == at_border


@pytest.mark.parametrize("side", [1 << 12, 1 << 16, 1 << 18])
def test_an_object_of_any_size_has_the_measures_of_its_parts(side: int) -> None:
    """A square of 16 by 16 parts, of which all is known; its moments may not fit in 64 bits."""
    n = side // 16
    corners = np.array([(y, x) for y in range(0, side, n) for x in range(0, side, n)])
    line, squares = n * (n - 1) // 2, n * (n - 1) * (2 * n - 1) // 6
    moments = [n * line, n * line, n * squares, n * squares, line * line]
    count = len(corners)
    nothing = np.zeros((count, 1))
    parts = ObjectSums(
        boxes=np.concatenate([corners, corners + n], 1),
        areas=np.full(count, n * n),
        moments=np.tile(np.array(moments), (count, 1)),
        values=nothing,
        deviations=nothing,
    )
    found = measures_of(merge_sums(parts, np.zeros(count, np.int64), 1), [""], side, side)
    assert found.areas == [side**2]
    assert found.centroids[0] == pytest.approx([(side - 1) / 2] * 2)
    # A square's second moment is a twelfth of its side's square.
    assert found.major_axes[0] == pytest.approx(4 * side / np.sqrt(12))
    assert found.minor_axes[0] == pytest.approx(4 * side / np.sqrt(12))


def test_rle_is_cocos_over_the_box() -> None:
    scene = make_scene(90, 70, 20, 5)
    instances = scene.label.instances
    found = measure_objects(instances, scene.image, int(instances.max()))
    rebuilt = np.zeros_like(instances)
    for i, (box, rle) in enumerate(zip(found.boxes, found.rles, strict=True)):
        y0, x0, y1, x1 = box
        mask = coco_mask.decode({"size": [int(y1 - y0), int(x1 - x0)], "counts": rle.encode()})
        rebuilt[y0:y1, x0:x1][mask > 0] = i + 1
    assert np.array_equal(rebuilt, instances)


def test_no_objects() -> None:
    found = measure_objects(np.zeros((5, 6), np.int32), np.zeros((5, 6, 3), np.uint8), 0)
    assert len(found.areas) == len(found.rles) == 0
    assert found.boxes.shape == (0, 4)
    assert found.intensity_means.shape == (0, 3)


@pytest.mark.parametrize("seed", range(40))
def test_runs_are_those_of_the_mask(seed: int) -> None:
    """Of specks, stripes that fill columns, and all between; as pycocotools draws them."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 60, 2))
    blurred = cv2.blur(rng.random((height, width)), (1, int(rng.integers(1, 9))))
    mask = (blurred >= np.quantile(blurred, rng.random())).astype(np.uint8)
    code = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    runs = decode_runs(code, (7, 11, 7 + height, 11 + width))
    drawn = np.zeros_like(mask)
    for x, y0, y1 in (runs - (11, 7, 7)).tolist():
        drawn[y0:y1, x] += 1
    assert np.array_equal(drawn, mask)
    assert encode_runs(runs, (7, 11, 7 + height, 11 + width)) == code


@pytest.mark.parametrize("seed", range(10))
def test_a_run_of_any_length_is_one_that_others_read(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_LONGEST", 5)
    rng = np.random.default_rng(seed)
    mask = (rng.random((7, 12)) < 0.9).astype(np.uint8)
    mask[:, 3:8] = 1
    box = (0, 0, 7, 12)
    code = encode_runs(
        decode_runs(coco_mask.encode(np.asfortranarray(mask))["counts"].decode(), box), box
    )
    coded = {"size": [7, 12], "counts": code.encode()}
    assert np.array_equal(coco_mask.decode(coded), mask)
    plain = coco_mask.encode(np.asfortranarray(mask))
    assert np.array_equal(coco_mask.toBbox(coded), coco_mask.toBbox(plain))
    runs = decode_runs(code, box)
    assert (runs[:, 2] - runs[:, 1]).sum() == mask.sum()


def test_an_object_may_fill_its_box_of_ten_gigapixels() -> None:
    """COCO's counts have 32 bits, and no column of it begins or ends a run."""
    side = 100_000
    x = np.arange(side)
    filled = np.stack([x, 0 * x, 0 * x + side], 1).astype(np.int32)
    box = (0, 0, side, side)
    runs = decode_runs(encode_runs(filled, box), box)
    assert (runs[:, 2] - runs[:, 1]).astype(np.int64).sum() == side**2


@pytest.mark.parametrize(("dtype", "middle"), [("u2", 60_000), ("u4", 4e9), ("i4", -2e9),
                                                ("f4", 1e6), ("f8", 1e12)])  # fmt: skip
def test_intensities_far_from_0_differ_by_what_they_do(dtype: str, middle: float) -> None:
    """Also those of an object that was measured in parts."""
    rng = np.random.default_rng(0)
    pixels = (middle + rng.normal(0, 20, (60, 60, 2)).round()).astype(dtype)
    instances = np.ones((60, 60), np.int32)
    expected = (pixels.astype(np.float64) - middle).std((0, 1))
    found = measure_objects(instances, pixels, 1)
    assert found.intensity_stds[0] == pytest.approx(expected, rel=1e-5)
    halves = ObjectSums.joined([sum_objects(instances[y : y + 30], pixels[y : y + 30], 1, (y, 0))
                                for y in (0, 30)])  # fmt: skip
    merged = measures_of(merge_sums(halves, np.zeros(2, np.int64), 1), [""], 60, 60)
    assert merged.intensity_stds[0] == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(merged.intensity_means, found.intensity_means)


def test_an_object_is_exported_in_the_memory_of_its_outline() -> None:
    """A disc of 1.2 gigapixels."""
    radius = 20_000
    x = np.arange(2 * radius)
    half = np.sqrt(radius**2 - (x - radius + 0.5) ** 2).astype(int)
    disc = np.stack([x, radius - half, radius + half], 1).astype(np.int32)
    y0, y1 = int(disc[:, 1].min()), int(disc[:, 2].max())
    row = {"y0": y0, "x0": 0, "y1": y1, "x1": len(x)}
    row["rle"] = encode_runs(disc, (y0, 0, y1, len(x)))
    tracemalloc.start()
    polygon = outline(runs_in_image(row))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert polygon.area == 2 * half.sum()
    assert peak < 50 << 20
