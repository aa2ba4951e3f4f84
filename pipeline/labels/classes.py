"""Lists of classes, and the colours that stand for them in colour-coded maps.

    classes.yaml          classes: [{id, name, kind, color: [r, g, b]}, …], void, void_color
    class_dict.csv        name,r,g,b: ids are row numbers from 0
    label_colors.txt      'r g b name' a line, likewise
    labelmap.txt          'name:r,g,b:…:…' a line, likewise (CVAT)
    codes.txt             'name' a line, likewise, or 'id name' in every line
    class_names.txt       likewise (Labelme)
    objectInfo150.txt     Idx, Ratio, …, Name; 0 is void (ADE20K)
    _classes.csv          Pixel Value, Class (Roboflow, in the folder of each split)

In all but the first, rows named void, unlabelled or ignore are no class, but pixels that nobody
labelled; a row named background is background, all others are stuff. Of text files, lines that
begin with # and a header as 'r g b name' say nothing.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import LabelSettings
from pipeline.errors import DataError, SettingsError
from pipeline.labels.base import Place
from pipeline.labels.files import read_rows, read_text
from pipeline.labels.legend import Color, Legend
from pipeline.labels.pascal import CLASSES as PASCAL
from pipeline.labels.pascal import is_pascal
from pipeline.labels.splits import is_split
from pipeline.parsing import parse_yaml
from pipeline.records import VOID, Classes, ClassSpec, thing_ids

CLASSES_FILE = "classes.yaml"
_COLOUR_FILES = ("class_dict.csv", "label_colors.txt", "labelmap.txt")
LIST_FILES = (*_COLOUR_FILES, "codes.txt", "classes.txt", "class_names.txt", "objectInfo150.txt")
"""Names under which class lists of semantic data sets are found."""
_VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored"}
_BACKGROUND_NAMES = {"background", "_background_", "bg"}
_IN_SPLITS = "_classes.csv"
_CVAT_LINE = re.compile(r"([^:]+):(\d{1,9}),(\d{1,9}),(\d{1,9}):[^:]*:[^:]*")
_COLOUR_LINE = re.compile(r"(\d{1,9})[\s,;]+(\d{1,9})[\s,;]+(\d{1,9})[\s,;]+(\S.*)")
_ID_LINE = re.compile(r"(\d{1,9})[\s,;:.)=-]+([^\s\d].*)")
_HEADER_LINE = re.compile(
    r"(r(ed)?[\s,;]+g(reen)?[\s,;]+b(lue)?\b|(id|index)[\s,;:]+(name|class)\b)", re.IGNORECASE
)

DEFAULT_CLASSES: Classes = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="object", kind="thing"),
)
"""Those of data that only knows objects."""

_IDS = (
    f"ids go from 0 to {VOID - 1}, so a model tells up to {VOID} classes apart; give the values of "
    "classes that are much alike one id, in the class list and in the maps"
)
_Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, and how its maps say them."""

    uri: str
    classes: Classes
    void: int
    """Value for pixels that nobody labelled."""
    legend: Legend = field(default_factory=Legend)
    """Its colours, and further values for pixels that nobody labelled."""


class _Entry(ClassSpec):
    color: tuple[_Level, _Level, _Level] | None = None


class _ClassFile(BaseModel):
    """What classes.yaml holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[_Entry, ...] = Field(min_length=1)
    void: int = Field(VOID, ge=0, le=255)
    void_color: tuple[_Level, _Level, _Level] | None = None


@dataclass(frozen=True)
class _Row:
    id: int
    name: str
    color: Color | None


def find_classes(place: Place, settings: LabelSettings) -> ClassList | None:
    """The class list that the settings name or that lies beside the images; None without one.

    Pascal VOC itself needs none.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    beside = [name for name in (CLASSES_FILE, *LIST_FILES) if name in place.names]
    beside = beside or [f"{split}/{_IN_SPLITS}" for split in _listing_splits(place)]
    if settings.classes is None and not beside and is_pascal(place):
        found = ClassList(place.uri, PASCAL, VOID)
    elif settings.classes is None and not beside:
        return None
    else:
        found = _read_list(settings.classes or place.join(beside[0]))
    colours = [name for name in beside if name in _COLOUR_FILES]
    if settings.palette is not None:
        found = _coloured(found, settings.palette)
    elif not found.legend.colours and colours:
        found = _coloured(found, place.join(colours[0]))
    if settings.void is not None:
        found = replace(found, void=settings.void)
    clash = [spec.name for spec in found.classes if spec.id == found.void]
    if clash:
        raise DataError(f"{found.uri}: the value {found.void} is both void and {clash[0]}")
    return found


def _listing_splits(place: Place) -> list[str]:
    """The folders of splits that have a class list of their own."""
    splits = filter(is_split, place.names)
    return [name for name in splits if _IN_SPLITS in place.below(name).names]


def classes_or_object(place: Place, settings: LabelSettings, has_semantic: bool) -> ClassList:
    """The class list beside the images; one class of things where only objects are labelled.

    Raises:
        DataError: there is none and class maps need one, or it has too many classes of things.
    """
    found = find_classes(place, settings)
    if found is None and has_semantic:
        raise DataError(
            f"{place.join(CLASSES_FILE)} is missing: class maps need a list of classes, such as "
            "'classes: [{id: 0, name: background, kind: background}, …]'"
        )
    if found is None:
        return ClassList(place.uri, DEFAULT_CLASSES, VOID)
    if not has_semantic and len(thing_ids(found.classes)) != 1:
        raise DataError(
            f"{found.uri}: without class maps there is exactly one class of things (if the labels "
            "are class ids, --labels.format semantic reads them)"
        )
    return found


def _read_list(uri: str) -> ClassList:
    if PurePosixPath(uri).suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(uri)
    rows = _read_plain(uri)
    void = [row.id for row in rows if means_void(row.name)]
    named = [(row.id, row.name) for row in rows if row.id not in void]
    if not 0 < len(named) < VOID or len(rows) > VOID:
        raise DataError(f"{uri} takes 1 to {VOID - 1} classes, not {len(named)}")
    too_high = [id for id, _ in named if id >= VOID] + [id for id in void if id > VOID]
    if too_high:
        raise DataError(f"{uri} has the id {too_high[0]}; ids are 0 to {VOID - 1}")
    classes = tuple(ClassSpec(id=id, name=name, kind=_kind(name)) for id, name in sorted(named))
    _check_distinct(uri, classes)
    colours = [(row.color, VOID if row.id in void else row.id) for row in rows]
    palette = tuple((color, value) for color, value in colours if color is not None)
    legend = Legend(_checked_palette(uri, palette), tuple(void))
    return ClassList(uri, classes, void[0] if void else VOID, legend)


def means_void(name: str) -> bool:
    """Whether it is what people call what nobody labelled: `void`, `Ignore*`, `__ignore__`."""
    return name.strip("_*").lower() in _VOID_NAMES


def means_background(name: str) -> bool:
    """Whether it is what people call that which is of no class."""
    return name.lower() in _BACKGROUND_NAMES


def _kind(name: str) -> Literal["background", "stuff"]:
    return "background" if means_background(name) else "stuff"


def _read_yaml(uri: str) -> ClassList:
    try:
        found = _ClassFile.model_validate(parse_yaml(read_text(uri), uri))
    except SettingsError as error:
        raise DataError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = _IDS if first["type"] == "less_than" else first["msg"]
        raise DataError(f"{uri}: {where}: {what}") from error
    ordered = sorted(found.classes, key=lambda spec: spec.id)
    classes = tuple(ClassSpec(id=one.id, name=one.name, kind=one.kind) for one in ordered)
    _check_distinct(uri, classes)
    palette = [(one.color, one.id) for one in ordered if one.color is not None]
    if found.void_color is not None:
        palette.append((found.void_color, VOID))
    legend = Legend(_checked_palette(uri, tuple(palette)))
    return ClassList(uri, classes, found.void, legend)


def _check_distinct(uri: str, classes: Classes) -> None:
    ids, names = {spec.id for spec in classes}, {spec.name for spec in classes}
    if min(len(ids), len(names)) < len(classes):
        raise DataError(f"{uri}: two classes have the same id or name")


def _checked_palette(
    uri: str, palette: tuple[tuple[Color, int], ...]
) -> tuple[tuple[Color, int], ...]:
    seen: dict[Color, int] = {}
    for color, value in palette:
        if seen.setdefault(color, value) != value:
            raise DataError(f"{uri}: the colour {color} stands for two classes")
    return tuple(seen.items())


def _coloured(listed: ClassList, uri: str) -> ClassList:
    """With the colours of a palette file; those of no listed class mean that nobody labelled."""
    ids = {spec.name.lower(): spec.id for spec in listed.classes}
    rows = [(row.color, row.name.lower()) for row in _read_plain(uri)]
    palette = tuple((color, ids.get(name, VOID)) for color, name in rows if color is not None)
    missing = sorted(set(ids) - {name for _, name in rows})
    if missing or len(palette) < len(rows):
        raise DataError(f"{uri} has no colour for {missing[0] if missing else 'every name'}")
    legend = replace(listed.legend, colours=_checked_palette(uri, palette))
    return replace(listed, legend=legend)


def _read_plain(uri: str) -> list[_Row]:
    return _read_table(uri) if uri.lower().endswith(".csv") else _read_lines(uri)


def _read_table(uri: str) -> list[_Row]:
    """The rows of a CSV; ids are their places."""
    rows = [{key.lower(): value for key, value in row.items()} for row in read_rows(uri)]
    if rows and {"pixel value", "class"} <= rows[0].keys():
        return [_Row(_number(uri, row["pixel value"]), row["class"], None) for row in rows]
    if not rows or not {"name", "r", "g", "b"} <= rows[0].keys():
        raise DataError(f"{uri} needs a header with the columns name, r, g, b")
    for number, row in enumerate(rows, start=1):
        if not row["name"]:
            raise DataError(f"{uri} row {number} has no name")
    colours = [_color(uri, [row[c] for c in "rgb"]) for row in rows]
    return [_Row(i, row["name"], colours[i]) for i, row in enumerate(rows)]


def _number(uri: str, word: str) -> int:
    if not word.isdecimal():
        raise DataError(f"{uri} has the value {word or 'nothing'}, which is no number")
    return int(word)


def _read_lines(uri: str) -> list[_Row]:
    """The lines of a text file: all 'r g b name' or CVAT's, all 'id name', or all names."""
    lines = [line.strip() for line in read_text(uri).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and lines[0].startswith("Idx\t"):
        rows = [(line.split("\t")[0], line.split("\t")[-1]) for line in lines[1:]]
        return [_Row(0, "void", None), *(_Row(_number(uri, id), name, None) for id, name in rows)]
    if lines and _HEADER_LINE.match(lines[0]):
        del lines[0]
    lines = [_CVAT_LINE.sub(r"\2 \3 \4 \1", line) for line in lines]
    coloured = [_COLOUR_LINE.fullmatch(line) for line in lines]
    numbered = [_ID_LINE.fullmatch(line) for line in lines]
    # One name may begin with a number; where several do, they are ids, and others are mistakes.
    for found, form, most in ((coloured, "r g b name", 0), (numbered, "id name", 1)):
        if None in found and len(lines) - found.count(None) > most:
            odd = lines[found.index(None)]
            raise DataError(f"{uri}: the line '{odd}' is not '{form}', as others are")
    if None not in coloured:
        parts = [match.groups() for match in coloured if match]
        return [_Row(i, p[3], _color(uri, list(p[:3]))) for i, p in enumerate(parts)]
    if None not in numbered:
        return [_Row(int(match[1]), match[2], None) for match in numbered if match]
    return [_Row(i, line, None) for i, line in enumerate(lines)]


def _color(uri: str, words: list[str]) -> Color:
    levels = [int(word) if word.isdecimal() else -1 for word in words]
    if not all(0 <= level <= 255 for level in levels):
        raise DataError(f"{uri}: {' '.join(words)} is no colour: r, g and b are 0 to 255")
    return levels[0], levels[1], levels[2]
