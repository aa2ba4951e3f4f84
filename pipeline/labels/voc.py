"""Pascal VOC's folders with objects told apart, as CVAT and Datumaro export them, too:

    JPEGImages/x.jpg, SegmentationClass/x.png, SegmentationObject/x.png
    ImageSets/Segmentation/train.txt and val.txt      the splits
    labelmap.txt, classes.txt, classes.yaml …         the classes

A map of objects holds ids, by a palette or not, or a colour an object. Where classes.yaml does not
say otherwise, all classes but the background are things.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import CLASSES_FILE
from pipeline.labels.files import by_stem, decode, stem
from pipeline.labels.maps import check_shape, read_instances, read_maps
from pipeline.labels.pairs import VOC, VOC_OBJECTS
from pipeline.labels.semantic import open_semantic
from pipeline.records import VOID, AnnotatedImage, Classes, InstanceMap, Label, Problem, thing_ids

_BORDER = 255  # of 8-bit ids, in Pascal VOC


def fits(place: Place) -> bool:
    """All three folders are there; without that of objects, the maps are of classes alone."""
    return {*VOC[:2], VOC_OBJECTS} <= set(place.names)


def open_voc(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """What `semantic` finds, with a map of objects for each image."""
    found = open_semantic(place, settings, val_fraction)
    problems = list(found.problems)
    maps = by_stem(place.join(VOC_OBJECTS), problems)
    if not maps:
        raise DataError(
            f"{place.join(VOC_OBJECTS)} holds no map of objects; --labels.format semantic reads "
            "classes alone"
        )
    images = []
    for image in found.images:
        objects = maps.get(stem(str(image.semantic_uri)))
        if objects is None:
            problems.append(Problem(image.image_uri, f"has no map of objects in {VOC_OBJECTS}/"))
        else:
            images.append(replace(image, instances_uri=objects, format="voc"))
    kinds_said = CLASSES_FILE in place.names or (settings.classes or "").endswith((".yaml", ".yml"))
    return replace(
        found,
        format="voc",
        images=tuple(images),
        classes=found.classes if kinds_said else _as_things(found.classes),
        problems=tuple(problems),
    )


def _as_things(classes: Classes) -> Classes:
    return tuple(
        spec if spec.kind == "background" else spec.model_copy(update={"kind": "thing"})
        for spec in classes
    )


def read_voc(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects where a class of things is; void are things of which no object is told.

    Around its objects Pascal VOC has a border of an id of its own, which is void in the class map,
    or else becomes it.
    """
    label = read_maps(replace(image, instances_uri=None), classes, void, shape)
    ids = _read_objects(str(image.instances_uri), label.semantic.shape)
    is_thing = np.isin(label.semantic, thing_ids(classes))
    ids = np.where(is_thing, ids, 0)
    semantic = np.where(is_thing & (ids == 0), VOID, label.semantic).astype(np.uint8)
    return replace(label, semantic=semantic, instances=ids)


def _read_objects(uri: str, shape: tuple[int, ...]) -> InstanceMap:
    """(H, W) the object of each pixel, 0 where none is: by ids, or by colours, of which black is
    none. Of 8-bit ids the last is the border."""
    pixels = decode(uri, as_indices=True)
    if pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        ids = read_instances(uri, shape)
        return np.where(ids == _BORDER, 0, ids) if pixels.dtype == np.uint8 else ids
    check_shape(uri, pixels, shape)
    colours: NDArray[np.int32] = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    _, numbers = np.unique(np.append(colours, 0), return_inverse=True)
    numbered: InstanceMap = numbers[:-1].reshape(shape).astype(np.int32)
    return numbered


FORMAT = Format(
    looks_for=f"JPEGImages/ with SegmentationClass/, {VOC_OBJECTS}/ and a class list",
    settings=frozenset({"classes", "palette", "void"}),
    fits=fits,
    open=open_voc,
    read=read_voc,
)
