"""What labels say of their objects: the same on a CPU and in the passes that a GPU takes."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pipeline.methods.shapes import (
    ObjectPixels,
    edge_distance,
    edge_distance_by_rows,
    middle_offsets,
    radii,
)
from pipeline.synthetic import make_scene


def scenes(height: int, width: int, objects: int) -> torch.Tensor:
    made = [make_scene(height, width, objects, seed).label.instances for seed in range(3)]
    return torch.from_numpy(np.stack([*made, np.zeros_like(made[0]), np.ones_like(made[0])]))


@pytest.mark.parametrize("shape", [(96, 130), (40, 7), (1, 30), (1, 1)])
def test_distances_are_the_same_in_passes_over_the_batch(shape: tuple[int, int]) -> None:
    instances = scenes(*shape, objects=12)
    one_by_one, at_once = edge_distance(instances), edge_distance_by_rows(instances)
    assert torch.equal(one_by_one, at_once)


def test_a_distance_is_that_to_the_nearest_pixel_at_an_edge() -> None:
    instances = scenes(80, 90, objects=40)[0]
    found = edge_distance_by_rows(instances[None])[0].numpy()
    ids = np.pad(instances.numpy(), 1, mode="edge")
    views = [np.roll(ids, (y, x), (0, 1))[1:-1, 1:-1] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    surrounded = np.logical_and.reduce([view == instances.numpy() for view in views])
    expected = distance_transform_edt(surrounded & (instances.numpy() > 0)) + 1
    assert np.allclose(found, np.where(instances > 0, expected, 0), atol=1e-4)


def test_a_middle_is_the_same_whatever_is_beside_it_in_the_batch() -> None:
    instances = scenes(64, 64, objects=10)
    together = middle_offsets(ObjectPixels.find(instances), edge_distance(instances))
    for number, one in enumerate(instances[:, None]):
        alone = middle_offsets(ObjectPixels.find(one), edge_distance(one))
        for way, same in zip(together, alone, strict=True):
            assert torch.equal(way[number], same[0])


def test_the_middle_of_a_disc_is_its_centre_and_its_radius_its_own() -> None:
    y, x = np.mgrid[:61, :61]
    disc = ((y - 27) ** 2 + (x - 33) ** 2 <= 15**2).astype(np.int32)
    pixels = ObjectPixels.find(torch.from_numpy(disc)[None])
    down, right = middle_offsets(pixels, edge_distance(torch.from_numpy(disc)[None]))
    inside = disc > 0
    assert np.allclose((y + down[0].numpy())[inside], 27, atol=1e-3)
    assert np.allclose((x + right[0].numpy())[inside], 33, atol=1e-3)
    assert radii(pixels)[0].numpy()[inside] == pytest.approx(15, rel=0.02)
    assert not down[0].numpy()[~inside].any()


def test_numbers_of_objects_may_be_large() -> None:
    """As in crops of a whole slide."""
    instances = scenes(64, 64, objects=10)
    few, many = ObjectPixels.find(instances), ObjectPixels.find(instances * 1_000_003)
    assert many.objects <= few.objects
    distance = edge_distance(instances)
    assert torch.equal(radii(few), radii(many))
    for way, same in zip(
        middle_offsets(few, distance), middle_offsets(many, distance), strict=True
    ):
        assert torch.equal(way, same)
