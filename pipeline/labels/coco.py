"""COCO instances (https://cocodataset.org/#format-data): a JSON file, or a folder with

    annotations/instances_train*.json, annotations/instances_val*.json     (or any *.json there)
    *.json                                                                 (or train/*.json, …)

and the images beside it: in the folder of the file, or next to it in images/, train2017/, …

Categories become classes 1 to n in the order of their ids, all of them things. Crowd regions are
void. What is drawn where objects overlap, and how they are kept, says `pipeline.labels.compose`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count

import numpy as np

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.coco_images import ANNOTATIONS, image_paths, image_root, is_inside, normal
from pipeline.labels.coco_json import CocoFile, CocoImage, Id, crowd_flag, has_coco_keys, read_coco
from pipeline.labels.coco_masks import draw
from pipeline.labels.compose import Shape, compose
from pipeline.labels.files import checked_size, unique_names
from pipeline.labels.outline_files import looks_like_labelme
from pipeline.labels.splits import hold_out, split_by_name, split_of
from pipeline.records import VOID, AnnotatedImage, Classes, ClassSpec, Label, Problem, Remark

_NAME_WORDS = ("instances", "annotations", "coco")
UNSEEN = "objects that cover no pixel and are left out"
CROWDS = (
    "regions that iscrowd marks as more than one object, which are void (tools such as CVAT mark "
    "each object that was drawn as a mask; set iscrowd to 0 there)"
)
_TRIED = 5  # files that are looked into


def fits(place: Place) -> bool:
    """A JSON file where one is expected; but for those in annotations/, also by name or header."""
    uris = _json_files(place)
    below = [uri.removeprefix(place.uri) for uri in uris]
    if uris and not place.is_file and looks_like_labelme(uris[0]):
        return False  # a file an image
    if any(not path or f"/{ANNOTATIONS}/" in path for path in below):
        return True
    return any(_is_named(storage.name_of(uri)) for uri in uris) or any(
        has_coco_keys(uri) for uri in uris[:_TRIED]
    )


def _is_named(file: str) -> bool:
    return any(word in file.lower() for word in _NAME_WORDS)


def open_coco(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Parse the files, find the images, and give each image the text of its annotations."""
    uris = _json_files(place)
    if not uris:
        raise DataError(f"{place.uri} holds no JSON file, neither in annotations/ nor in train/")
    files = [read_coco(uri) for uri in uris]
    class_ids = _class_ids(files)
    problems = [problem for file in files for problem in file.problems]
    images: list[AnnotatedImage] = []
    for file in files:
        split = split_of(storage.name_of(file.uri)) or ""
        if not split and len(files) > 1:  # a folder says it, where each split has one
            folders = file.uri.removeprefix(place.uri).split("/")[:-1]
            split = next(filter(None, map(split_of, folders)), "")
        images += _images(place, file, split, class_ids, settings, problems)
    kept = _distinct(images, problems)
    splits = {image.name: image.split for image in kept}
    if not any(splits.values()):
        splits = split_by_name(splits, val_fraction)
    splits = hold_out({name: split or "train" for name, split in splits.items()}, val_fraction)
    return AnnotatedData(
        place.uri,
        "coco",
        tuple(replace(image, split=splits[image.name]) for image in kept),
        _classes(files, class_ids),
        VOID,
        tuple(problems),
    )


def _json_files(place: Place) -> list[str]:
    """The file itself, or those in the usual places; `instances…` rather than others."""
    if place.suffix == ".json":
        return [place.uri]
    found = _first_json(_usual(place))
    if found:
        return found
    inside = [place.below(name) for name in place.names if "." not in name and split_of(name)]
    return [uri for folder in inside for uri in _first_json(_usual(folder))]


def _usual(place: Place) -> list[Place]:
    """The folders where JSON files lie."""
    return [place.below(ANNOTATIONS), place] if ANNOTATIONS in place.names else [place]


def _first_json(folders: list[Place]) -> list[str]:
    for folder in folders:
        found = [n for n in folder.names if n.lower().endswith(".json") and not n.startswith(".")]
        instances = [name for name in found if name.startswith("instances")]
        named = [name for name in found if _is_named(name)]
        if found:
            return [folder.join(name) for name in instances or named or found]
    return []


def _class_ids(files: list[CocoFile]) -> dict[Id, int]:
    """Category id → class id."""
    ids = {id for file in files for id in file.categories}
    if len(ids) >= VOID:
        raise DataError(f"{files[0].uri} has {len(ids)} categories; it takes up to {VOID - 1}")
    ordered = sorted(ids, key=lambda id: (isinstance(id, str), id))
    return {id: number for number, id in enumerate(ordered, start=1)}


def _classes(files: list[CocoFile], class_ids: dict[Id, int]) -> Classes:
    names: dict[Id, str] = {}
    for file in files:
        for id, name in file.categories.items():
            if names.setdefault(id, name) != name:
                raise DataError(f"{file.uri} calls category {id} {name}, not {names[id]}")
    repeated = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if repeated:
        raise DataError(f"{files[0].uri} has two categories named {repeated[0]}")
    background = next(
        name for name in ("background", "no object", "(no object)") if name not in names.values()
    )
    things = [ClassSpec(id=class_ids[id], name=names[id], kind="thing") for id in class_ids]
    return (ClassSpec(id=0, name=background, kind="background"), *things)


def _images(
    place: Place,
    file: CocoFile,
    split: str,
    class_ids: dict[Id, int],
    settings: LabelSettings,
    problems: list[Problem],
) -> Iterator[AnnotatedImage]:
    """The images whose files are there."""
    images = list(file.images.values())
    root = image_root(place, file, images, settings)
    paths = image_paths(images, storage.list_paths(root) if images else [])
    names = unique_names(list(paths.values()))
    for image in images:
        where = f"{file.uri} image {image.id}"
        if image.id in paths:
            yield AnnotatedImage(
                name=names[paths[image.id]],
                split=split,
                image_uri=storage.join(root, paths[image.id]),
                instances_uri=file.uri,
                semantic_uri=None,
                attributes={},
                format="coco",
                annotation=_annotation(file, image, class_ids),
            )
        elif is_inside(image.file_name):
            what = f"is {normal(image.file_name)}, which is not in {root}"
            problems.append(Problem(where, what))
        else:
            what = f"has the file_name {image.file_name}, outside of the folder of its images"
            problems.append(Problem(where, what))


def _annotation(file: CocoFile, image: CocoImage, class_ids: dict[Id, int]) -> str:
    """JSON: size, and of each annotation its place in the file, its class id, and itself."""
    rows = [
        f"[{one.number},{class_ids[one.category_id]},{one.text}]"
        for one in file.annotations.get(image.id, ())
    ]
    size = json.dumps([image.height, image.width])
    return f'{{"size":{size},"annotations":[{",".join(rows)}]}}'


def _distinct(images: list[AnnotatedImage], problems: list[Problem]) -> list[AnnotatedImage]:
    """Each image file once, and with a name of its own."""
    first: dict[str, AnnotatedImage] = {}
    names: set[str] = set()
    kept = []
    for image in images:
        other = first.setdefault(image.image_uri, image)
        if other is not image:
            what = f"is annotated in {other.instances_uri} and again in {image.instances_uri}"
            problems.append(Problem(image.image_uri, what))
            continue
        if image.name in names:
            # The same name in the files of two splits: told apart by the split's, or by a number.
            name = f"{image.split or 'other'}/{image.name}"
            numbered = (f"{name}-{number}" for number in count(2))
            name = next(one for one in chain([name], numbered) if one not in names)
            image = replace(image, name=name)
        names.add(image.name)
        kept.append(image)
    return kept


def read_coco_label(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of the file; one that covers no pixel is none."""
    record = json.loads(image.annotation)
    height, width = checked_size(image, record["size"], shape)
    ground = np.zeros((height, width), np.uint8)
    shapes: list[Shape] = []
    unseen = crowds = 0
    for number, class_id, annotation in record["annotations"]:
        where = f"{image.instances_uri} annotations[{number}]"
        drawn = draw(annotation["segmentation"], class_id, height, width, where)
        if drawn is None:
            unseen += 1
        elif crowd_flag(annotation.get("iscrowd")):
            crowds += 1
            box = drawn.box
            ground[box.y0 : box.y1, box.x0 : box.x1][drawn.mask] = VOID
        else:
            shapes.append(drawn)
    remarks = tuple(Remark(what, n) for what, n in ((UNSEEN, unseen), (CROWDS, crowds)) if n)
    return replace(compose(shapes, ground), remarks=remarks)


FORMAT = Format(
    looks_for="a COCO JSON file, in annotations/ or beside the images",
    settings=frozenset({"images"}),
    fits=fits,
    open=open_coco,
    read=read_coco_label,
)
