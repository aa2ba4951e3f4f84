"""Annotated scenes made from a seed, for the demo and the tests: two classes of things that touch
but do not overlap, and one class of stuff.

Legend: H height, W width.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
import yaml
from numpy.typing import NDArray

from pipeline import storage
from pipeline.records import ClassSpec, InstanceMap, Label, SemanticMap

CLASSES = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="tissue", kind="stuff"),
    ClassSpec(id=2, name="cell", kind="thing"),
    ClassSpec(id=3, name="crystal", kind="thing"),
)
_CELL, _CRYSTAL = 2, 3
_COLOURS = {  # red, green, blue, 0 to 1
    0: (0.08, 0.08, 0.10),
    1: (0.40, 0.22, 0.30),
    _CELL: (0.35, 0.55, 0.75),
    _CRYSTAL: (0.95, 0.90, 0.70),
}
FORMATS = ("png", "jpg", "tif", "gray16.png", "gray16.tif")
"""How a scene's image can be stored: 8-bit colour, or 16-bit gray."""


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it."""

    image: NDArray[np.uint8]
    """(H, W, 3) red, green, blue."""
    label: Label


def make_scene(height: int, width: int, objects: int, seed: int) -> Scene:
    """A scene of at most so many objects; where there is no room left there are fewer."""
    rng = np.random.default_rng(seed)
    semantic = _paint_tissue(height, width, rng)
    instances = np.zeros((height, width), np.int32)
    _place_objects(semantic, instances, objects, rng)
    colours = np.array([_COLOURS[spec.id] for spec in CLASSES], np.float32)
    image = colours[semantic]
    image[_rims(instances)] *= 0.75
    blurred = cv2.GaussianBlur(image, (0, 0), 0.8).reshape(image.shape)
    noisy = blurred + rng.normal(0, 0.03, image.shape)
    return Scene((noisy.clip(0, 1) * 255).astype(np.uint8), Label(semantic, instances))


def write_annotated(
    uri: str, sizes: Sequence[tuple[int, int]], splits: Sequence[str], seed: int
) -> list[Scene]:
    """Scenes as an annotated folder (`pipeline.labels.folder`), in turn in each of `FORMATS`."""
    scenes, rows = [], ["name,split"]
    for i, ((height, width), split) in enumerate(zip(sizes, splits, strict=True)):
        scene = make_scene(height, width, height * width // 700, seed + i)
        name = f"scene-{seed + i:04d}"
        suffix = FORMATS[i % len(FORMATS)].rpartition(".")[2]
        data = encode_image(scene.image, FORMATS[i % len(FORMATS)])
        storage.write_bytes(storage.join(uri, "images", f"{name}.{suffix}"), data)
        for folder, ids in (("labels", scene.label.instances), ("semantic", scene.label.semantic)):
            png = _to_png(ids.astype(np.uint16 if folder == "labels" else np.uint8))
            storage.write_bytes(storage.join(uri, folder, f"{name}.png"), png)
        scenes.append(scene)
        rows.append(f"{name},{split}")
    classes = yaml.safe_dump({"classes": [spec.model_dump() for spec in CLASSES]}, sort_keys=False)
    storage.write_bytes(storage.join(uri, "classes.yaml"), classes.encode())
    storage.write_bytes(storage.join(uri, "manifest.csv"), "\n".join([*rows, ""]).encode())
    return scenes


def encode_image(image: NDArray[np.uint8], kind: str) -> bytes:
    """(H, W, 3) → a file's bytes, in one of `FORMATS`."""
    if kind.startswith("gray16"):
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint16) * np.uint16(200)
        return _to_png(gray) if kind.endswith("png") else _to_tiff(gray)
    if kind == "tif":
        return _to_tiff(image)
    if kind == "jpg":
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return _to_png(image[..., ::-1])


def _paint_tissue(height: int, width: int, rng: np.random.Generator) -> SemanticMap:
    """(H, W) 1 in smooth patches over about a third of the scene."""
    noise = rng.normal(size=(max(height // 48, 2), max(width // 48, 2))).astype(np.float32)
    smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    covered: NDArray[np.bool_] = smooth > np.quantile(smooth, 0.65)
    return covered.astype(np.uint8)


def _place_objects(
    semantic: SemanticMap, instances: InstanceMap, objects: int, rng: np.random.Generator
) -> None:
    """Draw objects in place; half of them try to touch one that is there."""
    height, width = instances.shape
    placed: list[tuple[float, float, float]] = []
    for radius in _radii(objects, rng):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        if placed and rng.random() < 0.5:
            other_y, other_x, other_radius = placed[rng.integers(len(placed))]
            angle, distance = rng.uniform(0, 2 * np.pi), radius + other_radius
            y, x = other_y + distance * np.sin(angle), other_x + distance * np.cos(angle)
        class_id = _CELL if rng.random() < 0.65 else _CRYSTAL
        shape = _draw(height, width, y, x, radius, class_id, rng)
        free = shape & (instances == 0)
        if shape.sum() < 20 or free.sum() < 0.9 * shape.sum():
            continue
        placed.append((y, x, radius))
        instances[free] = len(placed)
        semantic[free] = class_id


def _radii(objects: int, rng: np.random.Generator) -> Iterator[float]:
    yield from rng.uniform(6, 12, objects)


def _draw(
    height: int,
    width: int,
    y: float,
    x: float,
    radius: float,
    class_id: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """(H, W) a disc for a cell, a turned square for a crystal."""
    mask = np.zeros((height, width), np.uint8)
    if class_id == _CELL:
        cv2.circle(mask, (round(x), round(y)), round(radius), 1, cv2.FILLED)
    else:
        turns = rng.uniform(0, np.pi / 2) + np.arange(4) * np.pi / 2
        corners = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    return mask > 0


def _rims(instances: InstanceMap) -> NDArray[np.bool_]:
    ids = instances.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edges: NDArray[np.bool_] = (cv2.erode(ids, kernel) != ids) & (instances > 0)
    return edges


def _to_png(image: NDArray[np.integer[Any]]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()


def _to_tiff(image: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, compression="zlib")
    return file.getvalue()
