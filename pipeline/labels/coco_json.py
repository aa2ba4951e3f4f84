"""A COCO instances file → its images and categories, and the text of each annotation by image.

Such files are large (half a gigabyte for COCO's own): the top level is walked element by element,
and of each annotation only its text is kept.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.labels.coco_masks import NO_SHAPE, segmentation_problem
from pipeline.records import Problem

_SPACE = re.compile(r"[ \t\r\n]*")
_KEYS = ("images", "annotations", "categories")
_BEGINNING = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories)"\s*:\s*[\[{]')
_HEADER = 1024  # bytes
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_CROWD = {"0": False, "0.0": False, "false": False, "none": False,
          "1": True, "1.0": True, "true": True}  # fmt: skip
_CLOSED_BY = {"[": "]", "{": "}"}
_IDS = " (ids are whole numbers or text)"

Id = int | str
"""COCO's own ids are numbers, those of some tools are text."""


@dataclass(frozen=True)
class CocoImage:
    """One entry of `images`."""

    id: Id
    file_name: str
    height: int | None
    width: int | None
    """Where the file doesn't say them, the image does."""


@dataclass(frozen=True)
class CocoAnnotation:
    """One entry of `annotations`: its place in the list, what it refers to, and its JSON text."""

    number: int
    image_id: Id
    category_id: Id
    text: str = field(repr=False)


@dataclass
class CocoFile:
    """What one JSON file holds."""

    uri: str
    categories: dict[Id, str] = field(default_factory=dict)
    above: dict[Id, str] = field(default_factory=dict)
    """Supercategories by category."""
    images: dict[Id, CocoImage] = field(default_factory=dict)
    annotations: dict[Id, list[CocoAnnotation]] = field(default_factory=lambda: defaultdict(list))
    """By image."""
    refused: set[Id] = field(default_factory=set)
    """Images that are a problem themselves, so that their annotations aren't problems, too."""
    problems: list[Problem] = field(default_factory=list)

    def report(self, key: str, number: int, what: str) -> None:
        self.problems.append(Problem(f"{self.uri} {key}[{number}]", what))


def has_coco_keys(uri: str) -> bool:
    """Whether a file begins as COCO's do, of whatever name."""
    with storage.open_seekable(uri) as file:
        return _BEGINNING.match(file.read(_HEADER)) is not None


def read_coco(uri: str) -> CocoFile:
    """Parse a file once; what single entries get wrong is among its problems.

    Raises:
        DataError: one line: it is not JSON, or not COCO's.
    """
    found = CocoFile(uri)
    try:
        seen = _collect(storage.read_bytes(uri).decode("utf-8-sig"), found)
    except json.JSONDecodeError as error:
        raise DataError(f"{uri} is not whole JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, an endless number, endless nesting
        raise DataError(f"{uri} is not readable JSON: {type(error).__name__}") from error
    missing = [key for key in _KEYS if key not in seen]
    if missing:
        raise DataError(f"{uri} is not a COCO instances file: it has no {missing[0]}")
    if found.problems and not found.annotations and {p.what for p in found.problems} == {NO_SHAPE}:
        raise DataError(
            f"{uri} has no segmentation in any of {len(found.problems):,} annotations, as for "
            "detection by boxes; export it as instance segmentation"
        )
    _drop_dangling(found)
    _drop_umbrella(found)
    return found


def _collect(text: str, found: CocoFile) -> set[str]:
    """Add every entry to what is found; returns the keys of the lists that are there."""
    seen = set()
    for key, number, element, source in _elements(text):
        if number < 0 and source:  # no list
            continue
        seen.add(key)
        if key not in _KEYS or number < 0:
            continue
        if not isinstance(element, dict):
            found.report(key, number, "is not an object")
        elif key == "categories":
            _add_category(found, number, element)
        elif key == "images":
            _add_image(found, number, element)
        else:
            _add_annotation(found, number, element, source)
    return seen


def _add_category(found: CocoFile, number: int, element: dict[str, Any]) -> None:
    id, name = _id(element.get("id")), element.get("name")
    if id is None or not isinstance(name, str) or not name:
        found.report("categories", number, f"has no id and name{_IDS}")
    elif found.categories.setdefault(id, name) != name:
        found.report("categories", number, f"has the id {id} of another category")
    else:
        found.above[id] = str(element.get("supercategory"))


def _add_image(found: CocoFile, number: int, element: dict[str, Any]) -> None:
    id, name = _id(element.get("id")), element.get("file_name")
    said = element.get("height"), element.get("width")
    height, width = (_length(one) for one in said)
    if id is None or not isinstance(name, str) or not name:
        found.report("images", number, f"has no id and file_name{_IDS}")
    elif id in found.images:
        found.report("images", number, f"has the id {id} of {found.images[id].file_name}")
    elif (height, width).count(None) > said.count(None):
        found.report("images", number, f"has the size {said[0]} x {said[1]}")
        found.refused.add(id)
    else:
        found.images[id] = CocoImage(id, name, height, width)


def _add_annotation(found: CocoFile, number: int, element: dict[str, Any], text: str) -> None:
    if "segments_info" in element:
        raise DataError(
            f"{found.uri} is COCO's panoptic format, whose masks are PNG files; panopticapi's "
            "panoptic2detection_coco_format.py makes an instances file of it"
        )
    image_id, category_id = _id(element.get("image_id")), _id(element.get("category_id"))
    problem = segmentation_problem(element.get("segmentation"))
    if problem is not None:
        found.report("annotations", number, problem)
    elif image_id is None or category_id is None:
        found.report("annotations", number, f"has no image_id and category_id{_IDS}")
    elif crowd_flag(element.get("iscrowd")) is None:
        found.report("annotations", number, f"has the iscrowd {element['iscrowd']}, not 0 or 1")
    else:
        one = CocoAnnotation(number, image_id, category_id, text)
        found.annotations[image_id].append(one)


def _drop_dangling(found: CocoFile) -> None:
    """Annotations of images or categories that are not there are problems."""
    for image_id in list(found.annotations):
        kept = []
        for one in found.annotations[image_id]:
            if image_id in found.refused:
                continue
            if image_id not in found.images:
                what = f"names image {image_id}, which the file does not hold"
                found.report("annotations", one.number, what)
            elif one.category_id not in found.categories:
                what = f"names category {one.category_id}, which the file does not hold"
                found.report("annotations", one.number, what)
            else:
                kept.append(one)
        found.annotations[image_id] = kept


def _drop_umbrella(found: CocoFile) -> None:
    """Without the category that Roboflow puts over all others, which no annotation has."""
    used = {one.category_id for some in found.annotations.values() for one in some}
    for id, name in list(found.categories.items()):
        below = [one for one, above in found.above.items() if above == name and one != id]
        if below and id not in used and found.above.get(id) == "none":
            del found.categories[id]


def crowd_flag(value: object) -> bool | None:
    """Whether `iscrowd` says so, as a number, as true or false, or as text; None if neither."""
    return _CROWD.get(str(value).lower())


def _id(value: object) -> Id | None:
    """An id as a whole number where it is one, however it is written: 7, 7.0 and "7" are one."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _length(value: object) -> int | None:
    """Pixels, as `_id` reads numbers; None where there are none."""
    length = _id(value)
    return length if isinstance(length, int) and length > 0 else None


def _elements(text: str) -> Iterator[tuple[str, int, Any, str]]:
    """(key, place, value, its text) of every element of the lists of a JSON object.

    A list may be an object, whose keys say nothing that its elements don't, as LIVECell has its
    annotations. A value that is neither comes as a whole, at place -1.
    """
    decode = json.JSONDecoder().raw_decode
    at = _expect(text, 0, "{")
    while text[at : at + 1] != "}":
        key, at = decode(text, at)
        at = _expect(text, at, ":")
        opened = text[at : at + 1]
        if opened not in _CLOSED_BY:
            value, end = decode(text, at)
            yield str(key), -1, value, text[at:end]
            at = _next(text, end, "}")
            continue
        closed = _CLOSED_BY[opened]
        at = _expect(text, at, opened)
        yield str(key), -1, None, ""
        number = 0
        while text[at : at + 1] != closed:
            if opened == "{":
                _, at = decode(text, at)
                at = _expect(text, at, ":")
            value, end = decode(text, at)
            yield str(key), number, value, text[at:end]
            at, number = _next(text, end, closed), number + 1
        at = _next(text, at + 1, "}")
    if _after_space(text, at + 1) != len(text):
        raise json.JSONDecodeError("more after its end", text, at + 1)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _expect(text: str, at: int, character: str) -> int:
    """Past this character and space around it."""
    at = _after_space(text, at)
    if text[at : at + 1] != character:
        raise json.JSONDecodeError(f"no '{character}'", text, at)
    return _after_space(text, at + 1)


def _next(text: str, at: int, end: str) -> int:
    """At the next element, past a comma, or at the end of the list or object."""
    at = _after_space(text, at)
    return at if text[at : at + 1] == end else _expect(text, at, ",")
