"""One binary mask a file and object, as the 2018 Data Science Bowl keeps them:

ID/images/ID.png      the image
ID/masks/*.png        an object each: every colour but black belongs to it
classes.yaml          optional: the one class of things
manifest.csv          optional: name (ID), split, and further columns

Where a mask is transparent in part, what is not belongs to the object, in whatever colour. JPEG and
WebP leave traces beside what was drawn: there, what is nearer to white than to black belongs to it.
An empty masks/ says that there is no object.
"""

import json
from collections import defaultdict
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.images.reader import alpha_of, has_palette
from pipeline.images.signatures import READABLE, detect_format
from pipeline.labels.base import AnnotatedData, Format, Place, first_few
from pipeline.labels.classes import classes_or_object
from pipeline.labels.compose import Shape, compose, tight_shape
from pipeline.labels.files import decode, decode_file, is_image, read_file
from pipeline.labels.splits import named_splits
from pipeline.records import AnnotatedImage, Classes, Label, Problem, thing_ids

_TRIED = 8  # folders that are looked into to tell the format
_FILES = (".csv", ".yaml", ".yml", ".json", ".txt", ".md", ".zip", ".parquet")


def fits(place: Place) -> bool:
    """One of the first folders holds masks/ and images/ with one image."""
    folders = (place.below(name) for name in place.names if _may_be_folder(name))
    return any(_is_one_image(folder) for folder in islice(folders, _TRIED))


def _is_one_image(folder: Place) -> bool:
    """Not a split, with a map an image in masks/."""
    if not {"images", "masks"} <= set(folder.names):
        return False
    return sum(map(is_image, folder.below("images").names)) <= 1


def _may_be_folder(name: str) -> bool:
    """Names of folders may hold dots; a file is rarely named as this format's ID."""
    return not (is_image(name) or name.startswith(".") or name.lower().endswith(_FILES))


def open_masks(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Find every ID, its image and its masks, by one listing."""
    images, masks = _listed(place)
    if not images:
        raise DataError(f"{place.uri} holds no ID/images/ID.png with ID/masks/*.png")
    listed = classes_or_object(place, settings, has_semantic=False)
    problems = [
        Problem(place.join(name), "has masks but no image")
        for name in sorted(masks - images.keys())
    ]
    notes: list[Problem] = []
    found, empty = [], []
    for name, row in named_splits(place, images, val_fraction, problems, notes).items():
        if len(images[name]) > 1:
            problems.append(Problem(place.join(name, "images"), "holds more than one image"))
        elif name not in masks and (why := _lacks_masks(place.join(name))):
            problems.append(Problem(images[name][0], f"has no mask: {why}"))
        else:
            empty += [name] if name not in masks else []
            found.append(
                AnnotatedImage(
                    name=name,
                    split=row["split"],
                    image_uri=images[name][0],
                    instances_uri=place.join(name, "masks"),
                    semantic_uri=None,
                    attributes={k: v for k, v in row.items() if k not in ("name", "split")},
                    format="masks",
                    annotation=json.dumps(masks.get(name, [])),
                )
            )
    what = f"says by an empty masks/ that there is no object in {len(empty):,}: {first_few(empty)}"
    if empty:
        notes.append(Problem(place.uri, what))
    return AnnotatedData(
        place.uri,
        "masks",
        tuple(found),
        listed.classes,
        listed.void,
        tuple(problems),
        tuple(notes),
    )


def _lacks_masks(folder: str) -> str:
    """Why an image without masks may not be one without objects; empty where it may."""
    if "masks" not in storage.list_names(folder):
        return "there is no masks/; an empty one says that there is no object"
    names = storage.list_names(storage.join(folder, "masks"))
    # An object store has no empty folders, but an object that stands for one: named as it is.
    others = [name for name in names if not name.startswith(".") and name != "masks"]
    return f"masks/ holds {others[0]}, which is no {READABLE} image" if others else ""


def read_masks(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of their files' names."""
    thing = thing_ids(classes)[0]
    background = next((spec.id for spec in classes if spec.kind == "background"), 0)
    shapes: list[Shape] = []
    for name in json.loads(image.annotation):
        uri = storage.join(str(image.instances_uri), name)
        mask = _read_mask(uri)
        if shape is not None and mask.shape != tuple(shape):
            raise DataError(
                f"{uri} is {mask.shape[0]} x {mask.shape[1]}, {image.image_uri} "
                f"{shape[0]} x {shape[1]}"
            )
        shape = mask.shape
        found = tight_shape(thing, mask)
        if found is None:
            raise DataError(f"{uri} holds no object: every pixel is 0")
        shapes.append(found)
    if shape is None:
        shape = decode(image.image_uri).shape[:2]
    return compose(shapes, np.full(shape, background, np.uint8))


def _read_mask(uri: str) -> NDArray[np.bool_]:
    """(H, W) what belongs to the object."""
    data = read_file(uri)
    pixels: NDArray[Any] = decode_file(data, uri, as_indices=True)
    alpha = alpha_of(data)
    if alpha is not None and alpha.any() and not alpha.all():
        return alpha > 0
    if has_palette(data):  # any place in it may be black
        pixels = decode_file(data, uri)
    if detect_format(data) in ("JPEG", "WebP"):
        pixels = pixels >= 128
    return np.asarray(pixels.any(-1))


def _listed(place: Place) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """ID → URIs of its images, and ID → names of its masks."""
    images: dict[str, list[str]] = defaultdict(list)
    masks: dict[str, list[str]] = defaultdict(list)
    for path in storage.list_paths(place.uri):
        parts = path.split("/")
        if len(parts) != 3 or not is_image(parts[2]):
            continue
        if parts[1] == "images":
            images[parts[0]].append(place.join(path))
        elif parts[1] == "masks":
            masks[parts[0]].append(parts[2])
    return dict(images), dict(masks)


FORMAT = Format(
    looks_for="ID/images/ with ID/masks/ (a mask an object)",
    settings=frozenset({"classes"}),
    fits=fits,
    open=open_masks,
    read=read_masks,
)
