"""COCO instances (https://cocodataset.org/#format-data): a JSON file, or a folder with

    annotations/instances_train*.json, annotations/instances_val*.json     (or any *.json there)
    *.json                                                                 (or train/*.json, …)

and the images beside it: in the folder of the file, or next to it in images/, train2017/, …

Categories become classes 1 to n in the order of their ids, all of them things. Crowd regions are
void. What is drawn where objects overlap, and how they are kept, says `pipeline.labels.compose`.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import PurePosixPath

import numpy as np

from pipeline import storage
from pipeline.config import LabelSettings, ReaderSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.coco_json import CocoFile, CocoImage, Id, crowd_flag, read_coco
from pipeline.labels.coco_masks import draw
from pipeline.labels.compose import Shape, compose
from pipeline.labels.files import decode, unique_names
from pipeline.labels.splits import hold_out, split_by_name, split_of
from pipeline.records import VOID, AnnotatedImage, Classes, ClassSpec, Label, Problem, Remark

_ANNOTATIONS = "annotations"
_IMAGE_FOLDERS = ("", "images", "JPEGImages", "data")
_NAME_WORDS = ("instances", "annotations", "coco")
UNSEEN = "objects that cover no pixel and are left out"
_TRIED = 5  # images that are looked for to find their folder


def fits(place: Place) -> bool:
    """A JSON file where one is expected; beside the images, also by its name."""
    here = storage.absolute(place.uri)
    return any(
        uri == here
        or uri.rpartition("/")[0] != here
        or any(word in storage.name_of(uri).lower() for word in _NAME_WORDS)
        for uri in _json_files(place)
    )


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
        # A folder's name says the split where each split has one: train/_annotations.coco.json.
        folder = PurePosixPath(file.uri).parent.name if len(files) > 1 else ""
        split = split_of(storage.name_of(file.uri)) or split_of(folder) or ""
        images += _images(file, split, class_ids, settings, problems)
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
    folders: list[tuple[str, Sequence[str]]] = []
    if _ANNOTATIONS in place.names:
        uri = place.join(_ANNOTATIONS)
        folders.append((uri, storage.list_names(uri)))
    folders.append((place.uri, place.names))
    found = _first_json(folders)
    if found:
        return found
    inside = [place.join(name) for name in place.names if "." not in name and split_of(name)]
    return [uri for folder in inside for uri in _first_json([(folder, storage.list_names(folder))])]


def _first_json(folders: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    for folder, names in folders:
        found = [n for n in names if n.lower().endswith(".json") and not n.startswith(".")]
        instances = [name for name in found if name.startswith("instances")]
        if found:
            return [storage.join(folder, name) for name in instances or found]
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
    file: CocoFile,
    split: str,
    class_ids: dict[Id, int],
    settings: LabelSettings,
    problems: list[Problem],
) -> Iterator[AnnotatedImage]:
    """The images whose files are there."""
    inside = []
    for image in file.images.values():
        where = f"{file.uri} image {image.id}"
        relative = PurePosixPath(image.file_name)
        if relative.is_absolute() or ".." in relative.parts or "://" in image.file_name:
            what = f"has the file_name {image.file_name}, outside of the folder of its images"
            problems.append(Problem(where, what))
        else:
            inside.append(image)
    root = _image_root(file, inside, settings)
    there = set(storage.list_paths(root)) if inside else set()
    names = unique_names([str(PurePosixPath(image.file_name)) for image in inside])
    for image in inside:
        path = str(PurePosixPath(image.file_name))
        if path not in there:
            where = f"{file.uri} image {image.id}"
            problems.append(Problem(where, f"is {path}, which is not in {root}"))
            continue
        yield AnnotatedImage(
            name=names[path],
            split=split,
            image_uri=storage.join(root, path),
            instances_uri=file.uri,
            semantic_uri=None,
            attributes={},
            format="coco",
            annotation=_annotation(file, image, class_ids),
        )


def _image_root(file: CocoFile, images: list[CocoImage], settings: LabelSettings) -> str:
    """The first usual folder where one of the first images is."""
    if settings.images is not None:
        return storage.absolute(settings.images)
    here = file.uri.rpartition("/")[0]
    above = "" if here.count("/") < 3 and "://" in here else here.rpartition("/")[0]  # no bucket
    stem = PurePosixPath(file.uri).stem.removeprefix("instances_")
    split = split_of(stem)
    folders = [*_IMAGE_FOLDERS, stem, f"images/{stem}"]
    folders += [split, f"images/{split}"] if split else []
    roots = [
        storage.join(base, f) if f else base for base in (here, above) if base for f in folders
    ]
    for root in roots:
        for image in images[:_TRIED]:
            if storage.exists(storage.join(root, image.file_name)):
                return root
    if not images:
        return here
    raise DataError(
        f"{file.uri}: {images[0].file_name} is in none of {', '.join(folders[1:])} beside it; "
        "say where its images are with --labels.images"
    )


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
    height, width = _size(image, record["size"], shape)
    ground = np.zeros((height, width), np.uint8)
    shapes: list[Shape] = []
    unseen = 0
    for number, class_id, annotation in record["annotations"]:
        where = f"{image.instances_uri} annotations[{number}]"
        drawn = draw(annotation["segmentation"], class_id, height, width, where)
        if drawn is None:
            unseen += 1
        elif crowd_flag(annotation.get("iscrowd")):
            box = drawn.box
            ground[box.y0 : box.y1, box.x0 : box.x1][drawn.mask] = VOID
        else:
            shapes.append(drawn)
    label = compose(shapes, ground)
    return replace(label, remarks=(Remark(UNSEEN, unseen),)) if unseen else label


def _size(
    image: AnnotatedImage, said: list[int | None], shape: tuple[int, ...] | None
) -> tuple[int, int]:
    if shape is None and None in said:
        shape = decode(image.image_uri).shape
    height, width = (int(n or 0) for n in (said if shape is None else shape[:2]))
    limit = ReaderSettings().max_pixels
    if None not in said and said != [height, width]:
        raise DataError(
            f"{image.instances_uri} says that {image.image_uri} is {said[0]} x {said[1]}, "
            f"but it is {height} x {width}"
        )
    if height * width > limit:
        raise DataError(f"{image.instances_uri}: {height} x {width} is over {limit} pixels")
    return height, width


FORMAT = Format(
    looks_for="a COCO JSON file, in annotations/ or beside the images",
    settings=frozenset({"images"}),
    fits=fits,
    open=open_coco,
    read=read_coco_label,
)
