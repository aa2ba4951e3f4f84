"""Cells that one can look through, so that they overlap, with nuclei in some of them."""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from pipeline.labels.compose import Shape, compose, tight_shape
from pipeline.records import ClassSpec, Label, Pixels

CLASSES = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="cell", kind="thing"),
    ClassSpec(id=2, name="nucleus", kind="thing"),
)


def see_through(height: int, width: int, cells: int, seed: int) -> tuple[Pixels, Label]:
    """Each is brighter where it lies over others, and has a bright rim."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 30.0)
    shapes: list[Shape] = []

    def put(class_id: int, mask: NDArray[np.uint8], light: float) -> None:
        rim = mask - cv2.erode(mask, np.ones((3, 3), np.uint8))
        image[:] += cv2.GaussianBlur(mask * light + rim * 35.0, (0, 0), 0.8)
        shape = tight_shape(class_id, mask > 0)
        if shape is not None:
            shapes.append(shape)

    for _ in range(cells):
        y, x = rng.uniform(8, height - 8), rng.uniform(8, width - 8)
        long = rng.uniform(9, 20)
        axes = (2 * long, 2 * long * rng.uniform(0.6, 1))
        turn = rng.uniform(0, 180)
        for class_id, share, light in ((1, 1.0, rng.uniform(45, 70)), (2, 0.5, 90.0)):
            if class_id == 2 and long < 13:
                continue
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, ((x, y), (axes[0] * share, axes[1] * share), turn), 1, -1)
            put(class_id, mask, light)
    noisy = image + rng.normal(0, 5, image.shape)
    label = compose(shapes, np.zeros((height, width), np.uint8))
    return noisy.clip(0, 255).astype(np.uint8)[..., None], label


def write_coco(folder: Path, train: int, val: int, side: int, seed: int = 0) -> None:
    """COCO instances, which tell overlapping objects whole."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, count, first in (("train", train, seed), ("val", val, seed + 1000)):
        images, annotations = [], []
        for number in range(count):
            pixels, label = see_through(side, side, 12, first + number)
            name = f"{split}{number}.png"
            cv2.imwrite(str(folder / "images" / name), pixels)
            images.append({"id": number, "file_name": name, "height": side, "width": side})
            for one in label.objects:
                mask = np.zeros((side, side), np.uint8, order="F")
                mask[one.box.y0 : one.box.y1, one.box.x0 : one.box.x1] = one.mask()
                code = coco_mask.encode(mask)
                annotations.append({
                    "id": len(annotations), "image_id": number, "category_id": one.class_id,
                    "segmentation": {"size": code["size"], "counts": code["counts"].decode()},
                    "iscrowd": 0,
                })  # fmt: skip
        categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "nucleus"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
