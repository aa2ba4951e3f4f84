"""Outlines of one image's objects in a file of its own → rings of points, by what wrote the file.

Labelme    JSON: shapes with points in pixels
QuPath     GeoJSON: features with polygons in pixels, which may have holes
YOLO       text: a line an object, its class and points as shares of the image's size
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import DataError
from pipeline.labels.coco_masks import segmentation_problem

Ring = list[float]
"""x, y of one point after another."""
UNNAMED = "object"
"""The class of an outline that says none."""
_CIRCLE = 64  # points
_HEADER = 65536  # bytes


@dataclass(frozen=True)
class Outline:
    """One object: its class, and the areas that it consists of."""

    class_name: str
    areas: list[list[Ring]]
    """Of each area the ring around it, and those around its holes."""


@dataclass(frozen=True)
class OutlineFile:
    """What one file says of its image."""

    outlines: list[Outline]
    size: tuple[int | None, int | None] = (None, None)
    """Height and width of the image, where the file tells."""
    relative: bool = False
    """Points are shares of width and height rather than pixels."""


def read_labelme(uri: str) -> OutlineFile:
    """Polygons, rectangles and circles; those of one label and group are one object.

    Raises:
        DataError: one line: it is not Labelme's, or an outline is not one.
    """
    data = _json(uri)
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list):
        raise DataError(f"{uri} is not Labelme's: it has no list of shapes")
    found: dict[object, Outline] = {}
    for number, shape in enumerate(shapes):
        where = f"{uri} shapes[{number}]"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DataError(f"{where} has no label")
        group = shape.get("group_id")
        key = number if group is None else (shape["label"], str(group))
        outline = found.setdefault(key, Outline(shape["label"], []))
        outline.areas.append([_labelme_ring(shape, where)])
    height, width = (data.get(key) for key in ("imageHeight", "imageWidth"))
    if type(height) is int and type(width) is int:
        return OutlineFile(list(found.values()), (height, width))
    return OutlineFile(list(found.values()))


def _labelme_ring(shape: dict[str, Any], where: str) -> Ring:
    kind, ring = shape.get("shape_type") or "polygon", _flat(shape.get("points"))
    if kind in ("rectangle", "circle"):
        if len(ring) != 4 or segmentation_problem([ring * 2]):
            raise DataError(f"{where} is a {kind} without two points")
        x, y, x1, y1 = ring
        if kind == "rectangle":
            return [x, y, x1, y, x1, y1, x, y1]
        radius, turn = math.hypot(x1 - x, y1 - y), 2 * math.pi / _CIRCLE
        points = ((math.cos(i * turn), math.sin(i * turn)) for i in range(_CIRCLE))
        return [c for px, py in points for c in (x + radius * px, y + radius * py)]
    if kind != "polygon":
        raise DataError(f"{where} is a {kind}; polygons, rectangles and circles are read")
    return _checked(ring, where)


def read_geojson(uri: str) -> OutlineFile:
    """Polygons and multipolygons, of the class that QuPath's classification names.

    Raises:
        DataError: one line: it is not GeoJSON, or a feature is no area.
    """
    data = _json(uri)
    features = data.get("features", [data]) if isinstance(data, dict) else data
    if not isinstance(features, list):
        raise DataError(f"{uri} is not GeoJSON: it has no list of features")
    outlines = []
    for number, feature in enumerate(features):
        where = f"{uri} features[{number}]"
        geometry = feature.get("geometry") if isinstance(feature, dict) else None
        if not isinstance(geometry, dict):
            raise DataError(f"{where} has no geometry")
        kind, coordinates = geometry.get("type"), geometry.get("coordinates")
        if kind not in ("Polygon", "MultiPolygon"):
            raise DataError(f"{where} is a {kind}; polygons and multipolygons are read")
        areas = [coordinates] if kind == "Polygon" else coordinates
        if not isinstance(areas, list) or not all(isinstance(a, list) and a for a in areas):
            raise DataError(f"{where} has no coordinates")
        rings = [[_checked(_flat(ring), where) for ring in area] for area in areas]
        outlines.append(Outline(_classification(feature.get("properties")), rings))
    return OutlineFile(outlines)


def _classification(properties: object) -> str:
    said = properties.get("classification") if isinstance(properties, dict) else None
    name = said.get("name") if isinstance(said, dict) else said
    return name if isinstance(name, str) and name else UNNAMED


def read_yolo(uri: str) -> OutlineFile:
    """The class's number and the points of a polygon in each line; an empty file is no object.

    The class is named by its number.

    Raises:
        DataError: one line: a line is not of that form, or is a box.
    """
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not text in UTF-8") from error
    outlines = []
    for number, line in enumerate(text.splitlines(), start=1):
        where, words = f"{uri} line {number}", line.split()
        if not words:
            continue
        try:
            ring = [float(word) for word in words[1:]]
        except ValueError:
            raise DataError(f"{where} is not a class and numbers") from None
        if not words[0].isdecimal():
            raise DataError(f"{where} begins with {words[0]}, not with the number of a class")
        if len(ring) in (4, 5):
            raise DataError(f"{where} is a box, as for detection; export as segmentation")
        if max(map(abs, ring), default=0) > 2:
            raise DataError(f"{where} has points in pixels; YOLO's are shares of the image's size")
        outlines.append(Outline(str(int(words[0])), [[_checked(ring, where)]]))
    return OutlineFile(outlines, relative=True)


def looks_like_labelme(uri: str) -> bool:
    """Whether a JSON file begins as Labelme's do."""
    with storage.open_seekable(uri) as file:
        return b'"shapes"' in file.read(_HEADER)


READERS: dict[str, Callable[[str], OutlineFile]] = {
    ".geojson": read_geojson,
    ".json": read_labelme,
    ".txt": read_yolo,
}
"""Suffix of the files → how they are read."""


def _json(uri: str) -> Any:
    try:
        return json.loads(storage.read_bytes(uri).decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{uri} is not whole JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, an endless number, endless nesting
        raise DataError(f"{uri} is not readable JSON: {type(error).__name__}") from error


def _flat(points: object) -> Ring:
    """x, y after another of a list of points, which may have more coordinates."""
    if not isinstance(points, Sequence):
        return []
    pairs = (point[:2] for point in points if isinstance(point, list))
    return [c for pair in pairs for c in pair]


def _checked(ring: Ring, where: str) -> Ring:
    problem = segmentation_problem([ring])
    if problem:
        raise DataError(f"{where} {problem}")
    return ring
