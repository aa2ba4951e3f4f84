"""One binary mask a file and object, as the 2018 Data Science Bowl keeps them:

ID/images/ID.png      the image
ID/masks/*.png        an object each: every value but 0 belongs to it
classes.yaml          optional: the one class of things
manifest.csv          optional: name (ID), split, and further columns
"""

import json
from collections import defaultdict
from itertools import islice

import numpy as np

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import classes_or_object
from pipeline.labels.compose import Shape, compose, tight_shape
from pipeline.labels.files import decode, is_image
from pipeline.labels.splits import named_splits
from pipeline.records import AnnotatedImage, Classes, Label, Problem, thing_ids

_TRIED = 8  # folders that are looked into to tell the format


def fits(place: Place) -> bool:
    """One of the first folders holds images/ and masks/."""
    folders = (name for name in place.names if "." not in name)
    return any(
        {"images", "masks"} <= set(storage.list_names(place.join(name)))
        for name in islice(folders, _TRIED)
    )


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
    found = []
    for name, row in named_splits(place, images, val_fraction, problems).items():
        if len(images[name]) > 1:
            problems.append(Problem(place.join(name, "images"), "holds more than one image"))
        elif name not in masks:
            problems.append(Problem(images[name][0], "has no mask: masks/ holds no image"))
        else:
            found.append(
                AnnotatedImage(
                    name=name,
                    split=row["split"],
                    image_uri=images[name][0],
                    instances_uri=place.join(name, "masks"),
                    semantic_uri=None,
                    attributes={k: v for k, v in row.items() if k not in ("name", "split")},
                    format="masks",
                    annotation=json.dumps(masks[name]),
                )
            )
    return AnnotatedData(
        place.uri, "masks", tuple(found), listed.classes, listed.void, tuple(problems)
    )


def read_masks(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of their files' names."""
    thing = thing_ids(classes)[0]
    background = next((spec.id for spec in classes if spec.kind == "background"), 0)
    shapes: list[Shape] = []
    for name in json.loads(image.annotation):
        uri = storage.join(str(image.instances_uri), name)
        mask = np.asarray(decode(uri, as_indices=True).any(-1))
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
        raise DataError(f"{image.image_uri} has no mask")
    return compose(shapes, np.full(shape, background, np.uint8))


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
