"""Cityscapes, as it unpacks (https://www.cityscapes-dataset.com):

    leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png
    gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png        class ids
    gtFine/SPLIT/CITY/NAME_gtFine_instanceIds.png     things: class * 1000 + number; others: class

Classes are the 19 that the benchmark evaluates, under their official label ids; all others are
void. A region of a thing class that was annotated as a group has no number of its own: its objects
can't be counted, so it is void too.
"""

from collections import Counter
from dataclasses import replace
from typing import Literal

import numpy as np

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.maps import read_ids
from pipeline.labels.splits import hold_out, split_of
from pipeline.records import VOID, AnnotatedImage, Classes, ClassSpec, Label, Problem, thing_ids
from pipeline.wording import plural

_IMAGES, _LABELS = "leftImg8bit", "gtFine"
_IMAGE_END, _SEMANTIC_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
_INSTANCES_END = "_gtFine_instanceIds.png"
_LARGEST_LABEL = 33
_PER_CLASS = 1000  # instance ids of one class


def _spec(id: int, name: str, kind: Literal["stuff", "thing"] = "stuff") -> ClassSpec:
    return ClassSpec(id=id, name=name, kind=kind)


CLASSES: Classes = (
    _spec(7, "road"),
    _spec(8, "sidewalk"),
    _spec(11, "building"),
    _spec(12, "wall"),
    _spec(13, "fence"),
    _spec(17, "pole"),
    _spec(19, "traffic light"),
    _spec(20, "traffic sign"),
    _spec(21, "vegetation"),
    _spec(22, "terrain"),
    _spec(23, "sky"),
    _spec(24, "person", "thing"),
    _spec(25, "rider", "thing"),
    _spec(26, "car", "thing"),
    _spec(27, "truck", "thing"),
    _spec(28, "bus", "thing"),
    _spec(31, "train", "thing"),
    _spec(32, "motorcycle", "thing"),
    _spec(33, "bicycle", "thing"),
)


def fits(place: Place) -> bool:
    """Both of its folders are there."""
    return {_IMAGES, _LABELS} <= set(place.names)


def open_cityscapes(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Pair the images of every split that has annotations with them."""
    labels = _listed(place.join(_LABELS))
    annotated = {key[0] for key in labels}
    there = _listed(place.join(_IMAGES))
    images = {key: uri for key, uri in there.items() if key[0] in annotated}
    bare = Counter(key[0] for key in there if key not in images and split_of(key[0]) != "test")
    found: list[AnnotatedImage] = []
    problems: list[Problem] = []
    has_instances = any(key[2].endswith(_INSTANCES_END) for key in labels)
    for (split, city, file), uri in images.items():
        if not file.endswith(_IMAGE_END):
            continue
        name = file.removesuffix(_IMAGE_END)
        semantic = labels.get((split, city, name + _SEMANTIC_END))
        instances = labels.get((split, city, name + _INSTANCES_END))
        if semantic is None:
            problems.append(Problem(uri, f"has no label: {name}{_SEMANTIC_END} is missing"))
        elif has_instances and instances is None:
            problems.append(Problem(uri, f"has no instances: {name}{_INSTANCES_END} is missing"))
        else:
            found.append(
                AnnotatedImage(
                    name=name,
                    split=split,
                    image_uri=uri,
                    instances_uri=instances,
                    semantic_uri=semantic,
                    attributes={"city": city},
                    format="cityscapes",
                )
            )
    if not found and not problems:
        raise DataError(
            f"{place.uri} holds no {_IMAGES}/SPLIT/CITY/NAME{_IMAGE_END} with "
            f"{_LABELS}/SPLIT/CITY/NAME{_SEMANTIC_END}"
        )
    splits = hold_out({image.name: image.split for image in found}, val_fraction)
    kept = tuple(replace(image, split=splits[image.name]) for image in found)
    notes = tuple(
        Problem(
            place.join(_IMAGES, split),
            f"holds {plural(n, 'image')} that nothing labels; passed over",
        )
        for split, n in sorted(bare.items())
    )
    return AnnotatedData(place.uri, "cityscapes", kept, CLASSES, VOID, tuple(problems), notes)


def read_cityscapes(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of their ids, from 1."""
    uri = str(image.semantic_uri)
    labels = read_ids(uri, shape)
    if labels.min(initial=0) < 0 or labels.max(initial=0) > _LARGEST_LABEL:
        worst = int(labels.max(initial=0))
        raise DataError(f"{uri} holds {worst}; Cityscapes' label ids are 0 to {_LARGEST_LABEL}")
    table = np.full(_LARGEST_LABEL + 1, VOID, np.uint8)
    table[[spec.id for spec in classes]] = [spec.id for spec in classes]
    semantic = table[labels]
    instances = np.zeros(semantic.shape, np.int32)
    if image.instances_uri is None:
        return Label(semantic, instances)
    ids = read_ids(image.instances_uri, labels.shape).astype(np.int64)
    things = thing_ids(classes)
    counted = np.isin(ids // _PER_CLASS, things)
    semantic[counted] = ids[counted] // _PER_CLASS
    _, numbers = np.unique(ids[counted], return_inverse=True)
    instances[counted] = numbers + 1
    semantic[np.isin(semantic, things) & ~counted] = VOID
    return Label(semantic, instances)


def _listed(uri: str) -> dict[tuple[str, str, str], str]:
    """(split, city, file name) → URI."""
    found = {}
    for path in storage.list_paths(uri):
        parts = path.split("/")
        if len(parts) == 3:
            found[parts[0], parts[1], parts[2]] = storage.join(uri, path)
    return found


FORMAT = Format(
    looks_for="leftImg8bit/ with gtFine/",
    settings=frozenset(),
    fits=fits,
    open=open_cityscapes,
    read=read_cityscapes,
)
