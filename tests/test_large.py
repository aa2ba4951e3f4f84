"""Law 3: tiled equals whole, the same objects, masks and counts, whatever the parts are."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config import MethodSettings
from pipeline.methods import build_method
from pipeline.records import ClassSpec
from tests.large_images import assert_same, cut_maps, imagined_maps, in_parts, nasty_scene, whole

CLASSES = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="nucleus", kind="thing"),
    ClassSpec(id=3, name="fibre", kind="thing"),
    ClassSpec(id=4, name="dirt", kind="stuff"),
)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_parts_are_as_the_whole(tmp_path: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(300, 900, 2))
    side = int(rng.integers(40, 300))
    pixels, label = nasty_scene(height, width, seed)
    label.semantic[label.instances % 5 == 1] = 3
    method = build_method(MethodSettings(name=name, reach=32), CLASSES)
    maps = imagined_maps(method, label, seed)
    expected = whole(tmp_path / "whole", method, maps, pixels)
    found = in_parts(
        tmp_path / "parts", method, side, pixels, cut_maps(maps), backwards=seed % 2 == 1
    )
    assert len(expected.objects) > 20
    assert_same(found, expected)
