"""Scenes that are hard to cut, and an image worked on in parts without Ray."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.images.intensities import image_range
from pipeline.images.windows import WholeImage
from pipeline.large.finish import finish_image
from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep, Opened
from pipeline.large.label import label_part
from pipeline.large.overlapping import label_whole
from pipeline.large.predict import keep_maps, predict_part, read_maps, read_window
from pipeline.methods.base import Method, OverlapMethod
from pipeline.predicting.objects import measure_objects, measure_whole
from pipeline.predicting.predictor import Predictor
from pipeline.records import (
    Box,
    InstanceMap,
    Label,
    Maps,
    Pixels,
    PredictedImage,
    SemanticMap,
    SourceImage,
)
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.growing import growing_shard
from pipeline.tables.masks import decode_tiles
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec
from tests.label_sets import targets_of


@dataclass(frozen=True)
class Tables:
    """What an output dataset says of its only image."""

    objects: pa.Table
    counts: pa.Table
    semantic: SemanticMap
    instances: InstanceMap

    def rows(self) -> list[dict[str, object]]:
        """Objects in the order of their boxes, but for their numbers."""
        kept = self.objects.drop_columns(["object_id"])
        return sorted(kept.to_pylist(), key=lambda row: tuple(str(v) for v in row.values()))


def nasty_scene(height: int, width: int, seed: int, foreground: int = 1) -> tuple[Pixels, Label]:
    """Bright objects of all sizes on dark: specks, discs that touch, large blobs, long threads."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((height, width), np.int32)

    def put(mask: NDArray[np.uint8]) -> None:
        free = (mask > 0) & (instances == 0)
        instances[free] = instances.max() + 1

    def place() -> tuple[int, int]:
        return int(rng.integers(width)), int(rng.integers(height))

    for thickness in (9, 14):
        canvas = np.zeros((height, width), np.uint8)
        points = np.array([place() for _ in range(4)], np.int32)
        cv2.polylines(canvas, [points], False, 1, thickness)
        put(canvas)
    for radius in (*rng.integers(40, 90, 2), *rng.integers(3, 14, height * width // 700)):
        canvas = np.zeros((height, width), np.uint8)
        axes = (int(radius), max(2, int(radius * rng.uniform(0.5, 1))))
        cv2.ellipse(canvas, place(), axes, rng.uniform(0, 180), 0, 360, 1, cv2.FILLED)
        put(canvas)
    bright = np.where(instances > 0, 90 + (instances * 37) % 120, 20).astype(np.float32)
    edges = cv2.morphologyEx(
        instances.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)
    )
    bright[(edges > 0) & (instances > 0)] *= 0.7
    noisy = cv2.GaussianBlur(bright, (0, 0), 1.0) + rng.normal(0, 4, bright.shape)
    pixels = noisy.clip(0, 255).astype(np.uint8)[..., None]
    return pixels, Label(np.where(instances > 0, foreground, 0).astype(np.uint8), instances)


def imagined_maps(method: Method, label: Label, seed: int) -> Maps:
    """Maps of a network that is right about `label`, but for noise and gaps."""
    rng = np.random.default_rng(seed)
    shape = label.semantic.shape
    targets = targets_of(method, label)
    channels = torch.arange(len(method.classes))[None, :, None, None]
    certain = (targets["semantic"][:, None] == channels) * 3.0
    noise = cv2.GaussianBlur(rng.normal(0, 9, (*shape, len(method.classes))), (0, 0), 2.5)
    outputs = {"semantic": certain + torch.from_numpy(noise).permute(2, 0, 1)[None]}
    if "offset" in method.heads:
        offset = torch.stack([targets["offset_y"], targets["offset_x"]], 1)
        blur = cv2.GaussianBlur(rng.normal(0, 1.0, (*shape, 2)), (0, 0), 3)
        outputs["offset"] = offset + torch.from_numpy(blur).permute(2, 0, 1)[None]
    return {name: m[0].numpy() for name, m in method.maps(outputs).items()}


def whole(folder: Path, method: Method, maps: Maps, pixels: Pixels) -> Tables:
    """The image predicted at once."""
    dataset = _dataset(folder, method)
    found = method.decode(maps)
    if found.objects is None:
        measures = measure_objects(found.instances, pixels, len(found.class_ids))
    else:
        measures = measure_whole(found.objects, pixels)
    height, width, channels = pixels.shape
    image = PredictedImage(_SOURCE, (height, width, channels), found, measures)
    commit_shard(dataset.uri, [image], [], method.classes, _PROVENANCE)
    return _read(dataset, pixels)


def in_parts(
    folder: Path,
    method: Method,
    side: int,
    pixels: Pixels,
    maps_of: Callable[[Box], Maps],
    backwards: bool = False,
) -> Tables:
    """The image in parts of `side` pixels, the last ones first if you like.

    Args:
        maps_of: a core → its maps.
    """
    dataset = _dataset(folder, method)
    height, width, channels = pixels.shape
    grid, image = Grid(height, width, side), WholeImage(pixels)
    keep = Keep.of(dataset.uri, "run", _PROVENANCE.shard, _SOURCE.image_id, side)
    parts = list(range(len(grid)))[:: -1 if backwards else 1]
    for part in parts:
        keep_maps(keep, part, maps_of(grid.core(part)), method)
    scale = sum((keep.read_scale(part) for part in parts), start=np.int64(0))
    for part in parts:
        core = grid.core(part)
        window = grid.around(core, method.halo(scale))
        seen, key = read_maps(keep, grid, window), (_SOURCE.image_id, _PROVENANCE.shard)
        if isinstance(method, OverlapMethod):
            around = image.read(grid.around(core, method.largest))
            label_whole(keep, part, grid, method, seen, window, around, key)
        else:
            label_part(keep, part, grid, method, seen, window, scale, image.read(core), key)
    with growing_shard(dataset.uri, _PROVENANCE, [_SOURCE], lambda: None) as out:
        opened = Opened((height, width, channels))
        finish_image(keep, grid, _SOURCE, opened, method.classes, method.settings, out)
    return _read(dataset, pixels)


def network_maps(predictor: Predictor, pixels: Pixels) -> Callable[[Box], Maps]:
    """A core → what the network says of it, from the window that it has to see."""
    image, size = WholeImage(pixels), pixels.shape[:2]
    bounds = image_range(image, predictor.channels, predictor.normalization)

    def maps_of(core: Box) -> Maps:
        window, corner = read_window(image, core, predictor.cutting)
        return predict_part(window, corner, core, size, bounds, predictor)

    return maps_of


def cut_maps(maps: Maps) -> Callable[[Box], Maps]:
    """A core → its part of the maps of the whole image."""
    return lambda core: {
        name: plane[core.y0 : core.y1, core.x0 : core.x1] for name, plane in maps.items()
    }


def assert_same(one: Tables, other: Tables, *, overlapping: bool = False) -> None:
    """The same objects with the same masks and measures, and the same counts."""
    assert one.rows() == other.rows()
    assert one.counts.to_pylist() == other.counts.to_pylist()
    assert np.array_equal(one.semantic, other.semantic)
    # One to one: each object of one map is exactly one of the other.
    pairs = np.unique(np.stack([one.instances.ravel(), other.instances.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(one.instances)) == len(np.unique(other.instances))
    for tables in (one, other) if not overlapping else ():
        drawn = np.bincount(tables.instances.ravel())[1:]
        ids, areas = (tables.objects[name].to_numpy() for name in ("object_id", "area"))
        assert np.array_equal(np.sort(ids), np.arange(1, len(drawn) + 1))
        assert np.array_equal(drawn[ids - 1], areas)


_SOURCE = SourceImage("image", "memory:image.tif", "1", 1)
_PROVENANCE = Provenance("shard", "run", "model")


def _dataset(folder: Path, method: Method) -> OutputDataset:
    overlapping = method.settings.overlapping
    spec = DatasetSpec(classes=method.classes, model="m", settings={}, overlapping=overlapping)
    dataset = OutputDataset.accepting(str(folder), spec)
    dataset.create()
    return dataset


def _read(dataset: OutputDataset, pixels: Pixels) -> Tables:
    def read(table: str) -> pa.Table:
        snapshot = dataset.snapshot()
        names = {"objects": None, "counts": None, "masks": None}
        assert table in names
        from pipeline.tables.schema import SCHEMAS

        return pa.Table.from_batches(snapshot.scan(table, SCHEMAS[table].names), SCHEMAS[table])

    semantic, instances = decode_tiles(read("masks").to_pylist(), *pixels.shape[:2])
    return Tables(read("objects"), read("counts"), semantic, instances)
