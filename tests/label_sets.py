"""Small data sets in every annotation format, and the truth about them as arrays."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.methods.base import Method
from pipeline.records import VOID, Label

H, W = 24, 30
Truth = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name → semantic and instances."""

PALETTE = {"sky": (70, 130, 180), "road": (128, 64, 128), "void": (0, 0, 0)}


def save(path: Path, image: np.ndarray) -> None:
    """As PNG or TIFF of the array's own type; colours are red, green, blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, image)
        return
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def picture(seed: int, height: int = H, width: int = W) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)


def blocks(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(H, W) with object i + 1 in box i (y0 x0 y1 x1)."""
    ids = np.zeros((H, W), np.int32)
    for i, (y0, x0, y1, x1) in enumerate(boxes, start=1):
        ids[y0:y1, x0:x1] = i
    return ids


def write_folder(root: Path) -> Truth:
    """Object ids in 8, 16 and 32 bits."""
    ids = blocks((2, 2, 8, 9), (10, 3, 15, 12), (12, 20, 20, 29))
    kinds = {"a.png": np.uint8, "b.png": np.uint16, "c.tif": np.int32, "d.tif": np.uint32}
    for i, (file, kind) in enumerate({**kinds, "e.tif": np.float32}.items()):
        save(root / f"images/{file[0]}.png", picture(i))
        save(root / f"labels/{file}", ids.astype(kind))
    return {name: ((ids > 0).astype(np.uint8), ids) for name in "abcde"}


def write_masks(root: Path) -> Truth:
    """Two objects that share a corner: the small one lies on top."""
    large, small = blocks((2, 2, 14, 14)) > 0, blocks((10, 10, 16, 18)) > 0
    for i, name in enumerate(["0a1b", "0c2d"]):
        save(root / name / "images" / f"{name}.png", picture(i))
        save(root / name / "masks/first.png", large.astype(np.uint8) * 255)
        save(root / name / "masks/second.png", small.astype(np.uint8) * 255)
    instances = np.where(small, 2, large).astype(np.int32)
    return {name: ((instances > 0).astype(np.uint8), instances) for name in ("0a1b", "0c2d")}


def rectangle(y0: float, x0: float, y1: float, x1: float) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel().astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def coco(images: list[str], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "info": {"description": "none"},
        "images": [
            {"id": 700 + i, "file_name": name, "height": H, "width": W}
            for i, name in enumerate(images)
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
        "annotations": [{"id": 10**12 + i, **one} for i, one in enumerate(annotations)],
    }


def write_coco(root: Path) -> Truth:
    """A polygon, both run-length codes, and a crowd; nothing overlaps but the crowd."""
    code, text = blocks((0, 0, 6, 5)) > 0, blocks((10, 20, 24, 30)) > 0
    crowd = blocks((4, 2, 12, 28)) > 0
    annotations = [
        {"category_id": 3, "segmentation": rectangle(14, 2, 20, 12)},
        {"category_id": 90, "segmentation": uncompressed(code), "iscrowd": 0},
        {"category_id": 3, "segmentation": compressed(text)},
        {"category_id": 3, "segmentation": uncompressed(crowd), "iscrowd": 1},
    ]
    (root / "annotations").mkdir(parents=True)
    for i, split in enumerate(["train", "val"]):
        save(root / f"{split}2017/{split}-a.png", picture(i))
        rows = [{"image_id": 700, **one} for one in annotations]
        path = root / f"annotations/instances_{split}2017.json"
        path.write_text(json.dumps(coco([f"{split}-a.png"], rows)))
    instances = blocks((14, 2, 20, 12)) + 2 * code + 3 * (text > 0)
    semantic = np.where(crowd, VOID, 0).astype(np.uint8)
    semantic[instances > 0] = np.array([0, 1, 2, 1], np.uint8)[instances[instances > 0]]
    truth = (semantic, instances.astype(np.int32))
    return {"train-a": truth, "val-a": truth}


def labelme(shapes: list[dict[str, Any]], **more: Any) -> str:
    """Its JSON of an image; a shape is a polygon unless it says otherwise."""
    whole = [{"group_id": None, "shape_type": "polygon", "flags": {}, **one} for one in shapes]
    size = {"imageHeight": H, "imageWidth": W}
    return json.dumps({"version": "5.4", "flags": {}, "shapes": whole, **size, **more})


def corners(y0: int, x0: int, y1: int, x1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def write_outlines(root: Path) -> Truth:
    """Labelme's: a polygon, a rectangle, and an object of two parts."""
    shapes = [
        {"label": "cell", "points": corners(2, 2, 8, 9)},
        {"label": "bead", "points": [[3, 10], [12, 15]], "shape_type": "rectangle"},
        {"label": "cell", "points": corners(12, 20, 20, 29), "group_id": 1},
        {"label": "cell", "points": corners(12, 14, 16, 17), "group_id": 1},
    ]
    for i, split in enumerate(["train", "val"]):
        save(root / f"{split}/{split}-a.png", picture(i))
        (root / f"{split}/{split}-a.json").write_text(labelme(shapes))
    instances = blocks((2, 2, 8, 9), (10, 3, 15, 12), (12, 20, 20, 29))
    instances[12:16, 14:17] = 3
    truth = (np.array([0, 2, 1, 2], np.uint8)[instances], instances)
    return {"train-a": truth, "val-a": truth}


def colour_map(ids: np.ndarray) -> np.ndarray:
    return np.array(list(PALETTE.values()), np.uint8)[ids]


def class_ids() -> np.ndarray:
    """0 above, 1 below, and 2, which is void, in a corner."""
    ids = np.zeros((H, W), np.uint8)
    ids[H // 2 :] = 1
    ids[:4, :4] = 2
    return ids


def write_semantic(root: Path) -> Truth:
    """CamVid in colours for training; for validation, indices with a palette of their own."""
    ids = class_ids()
    save(root / "train/0001.png", picture(0))
    save(root / "train_labels/0001_L.png", colour_map(ids))
    save(root / "val/0002.png", picture(1))
    (root / "val_labels").mkdir()
    indexed = Image.fromarray(ids, "P")
    indexed.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200])
    indexed.save(root / "val_labels/0002_L.png")
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in PALETTE.items()]
    (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows, ""]))
    truth = (np.where(ids == 2, VOID, ids).astype(np.uint8), np.zeros((H, W), np.int32))
    return {"0001": truth, "0002": truth}


def write_voc(root: Path) -> Truth:
    """Pascal VOC's ids by a palette for training, with a border around each object; CVAT's colours
    for validation. Of a car in the corner no object is told."""
    instances = blocks((2, 2, 8, 9), (10, 3, 15, 12), (12, 20, 20, 29))
    semantic = np.array([0, 1, 2, 1], np.uint8)[instances]
    semantic[21:, :4] = 1
    around = cv2.dilate(instances.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    border = around & (instances == 0)
    palette = [(0, 0, 0), (0, 0, 128), (0, 128, 0), (128, 128, 0)]
    flat = [level for color in palette for level in color] + [0] * 3 * 251 + [224, 224, 192]
    names = ["background", "car", "bead"]
    for i, name in enumerate(["a", "b"]):
        save(root / f"JPEGImages/{name}.png", picture(i))
        classes, objects = np.where(border, 255, semantic), np.where(border, 255, instances)
        for folder, ids in (("SegmentationClass", classes), ("SegmentationObject", objects)):
            if name == "b":
                table = np.array(flat, np.uint8).reshape(-1, 3)
                save(root / f"{folder}/b.png", table[ids])
                continue
            (root / folder).mkdir()
            indexed = Image.fromarray(ids.astype(np.uint8), "P")
            indexed.putpalette(flat)
            indexed.save(root / f"{folder}/a.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(names, palette[:3], strict=True)]
    rows.append("void:224,224,192::")
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows, ""]))
    semantic = np.where(border | (instances == 0) & (semantic > 0), VOID, semantic)
    return dict.fromkeys("ab", (semantic.astype(np.uint8), instances))


def write_cityscapes(root: Path) -> Truth:
    """Road, a group of cars, two cars and a person; the ego vehicle is void."""
    labels = np.full((H, W), 7, np.uint8)
    ids = np.full((H, W), 7, np.uint16)
    labels[:3] = ids[:3] = 1
    labels[4:8, :10] = ids[4:8, :10] = 26
    for value, box in ((26001, (10, 2, 14, 9)), (26000, (10, 9, 14, 15)), (24000, (16, 4, 22, 7))):
        y0, x0, y1, x1 = box
        labels[y0:y1, x0:x1], ids[y0:y1, x0:x1] = value // 1000, value
    for i, (split, name) in enumerate([("train", "aachen_0_0"), ("val", "ulm_1_2")]):
        city = name.split("_")[0]
        save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", picture(i))
        save(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png", labels)
        save(root / f"gtFine/{split}/{city}/{name}_gtFine_instanceIds.png", ids)
    semantic = np.where((labels == 1) | (ids == 26), VOID, labels).astype(np.uint8)
    numbers = {26001: 3, 26000: 2, 24000: 1}
    instances = np.zeros((H, W), np.int32)
    for value, number in numbers.items():
        instances[ids == value] = number
    return dict.fromkeys(("aachen_0_0", "ulm_1_2"), (semantic, instances))


def write_nnunet(root: Path) -> Truth:
    """Colours in one file, as nnU-Net has them of 2D images."""
    ids = class_ids()
    for i, name in enumerate(["a", "b_1"]):
        save(root / f"imagesTr/{name}_0000.tif", picture(i))
        save(root / f"labelsTr/{name}.tif", ids)
    what = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "road": 1, "ignore": 2},
        "numTraining": 2,
        "file_ending": ".tif",
    }
    (root / "dataset.json").write_text(json.dumps(what))
    truth = (np.where(ids == 2, VOID, ids).astype(np.uint8), np.zeros((H, W), np.int32))
    return {"a": truth, "b_1": truth}


def write_manifest(root: Path) -> Truth:
    """Parquet; files wherever they are; classes of two things."""
    instances = blocks((2, 2, 8, 9), (10, 3, 15, 12))
    semantic = np.array([0, 5, 9], np.uint8)[instances]
    semantic[20:] = 99
    rows = []
    for i, split in enumerate(["train", "val"]):
        save(root / f"pictures/{split}/x.png", picture(i))
        save(root / f"truth/{i}-objects.tif", instances.astype(np.uint16))
        save(root / f"truth/{i}-classes.png", semantic)
        rows.append({"image": f"pictures/{split}/x.png", "instances": f"truth/{i}-objects.tif",
                     "semantic": str(root / f"truth/{i}-classes.png"), "split": split,
                     "stain": "HE"})  # fmt: skip
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    (root / "manifest.parquet").write_bytes(table.getvalue())
    (root / "classes.yaml").write_text(
        "classes: [{id: 0, name: none, kind: background}, {id: 5, name: cell, kind: thing}, "
        "{id: 9, name: grain, kind: thing}]\nvoid: 99\n"
    )
    truth = (np.where(semantic == 99, VOID, semantic).astype(np.uint8), instances)
    return {"pictures/train/x": truth, "pictures/val/x": truth}


WRITERS: dict[str, Callable[[Path], Truth]] = {
    "folder": write_folder,
    "masks": write_masks,
    "coco": write_coco,
    "outlines": write_outlines,
    "semantic": write_semantic,
    "voc": write_voc,
    "cityscapes": write_cityscapes,
    "nnunet": write_nnunet,
    "manifest": write_manifest,
}


def targets_of(method: Method, label: Label) -> dict[str, torch.Tensor]:
    """What a method's heads should say for one image, as a batch of one."""
    maps = (torch.from_numpy(one)[None] for one in (label.semantic, label.instances))
    return method.targets(*maps)


def perfect_outputs(method: Method, label: Label) -> dict[str, torch.Tensor]:
    """Logits of a network that makes no mistake on `label`."""
    targets = targets_of(method, label)
    channels = torch.arange(len(method.classes))[None, :, None, None]
    outputs = {"semantic": (targets["semantic"][:, None] == channels) * 20.0}
    if "offset" in method.heads:
        outputs["offset"] = torch.stack([targets["offset_y"], targets["offset_x"]], 1)
    return outputs
