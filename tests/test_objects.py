"""Measurements of objects, held against their definitions one object at a time."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pipeline.predicting.objects import measure_objects
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
