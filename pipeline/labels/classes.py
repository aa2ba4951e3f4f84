"""Lists of classes, and the colours that stand for them in colour-coded maps.

    classes.yaml          classes: [{id, name, kind, color: [r, g, b]}, …], void, void_color
    class_dict.csv        name,r,g,b: ids are row numbers from 0
    label_colors.txt      'r g b name' a line, likewise
    codes.txt             'name' a line, likewise

In the last three, rows named void, unlabelled or ignore are no class, but pixels that nobody
labelled; a row named background is background, all others are stuff.
"""

import json
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.config import LabelSettings
from pipeline.errors import DataError, SettingsError
from pipeline.labels.base import Place
from pipeline.labels.files import read_rows, read_text
from pipeline.parsing import parse_yaml
from pipeline.records import VOID, Classes, ClassSpec, thing_ids

CLASSES_FILE = "classes.yaml"
LIST_FILES = ("class_dict.csv", "label_colors.txt", "codes.txt", "classes.txt")
"""Names under which class lists of semantic data sets are found."""
_VOID_NAMES = {"void", "unlabelled", "unlabeled", "ignore", "ignored"}
_BACKGROUND_NAMES = {"background", "_background_", "bg"}

DEFAULT_CLASSES: Classes = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="object", kind="thing"),
)
"""Those of data that only knows objects."""

Color = tuple[int, int, int]
_Level = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, and how its maps say them."""

    uri: str
    classes: Classes
    void: int
    """Value for pixels that nobody labelled."""
    palette: tuple[tuple[Color, int], ...] = ()
    """Colours and the class ids that they stand for; VOID for no label."""

    def palette_json(self) -> str:
        """As images carry it to where they are read; empty where there are no colours."""
        rows = [[*color, value] for color, value in self.palette]
        return json.dumps(rows) if rows else ""


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
    name: str
    color: Color | None


def find_classes(place: Place, settings: LabelSettings) -> ClassList | None:
    """The class list that the settings name or that lies beside the images; None without one.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    beside = [name for name in (CLASSES_FILE, *LIST_FILES) if name in place.names]
    if settings.classes is None and not beside:
        return None
    found = _read_list(settings.classes or place.join(beside[0]))
    colours = [name for name in beside if name in LIST_FILES[:2]]
    if settings.palette is not None:
        found = replace(found, palette=_colours(settings.palette, found.classes))
    elif not found.palette and colours:
        found = replace(found, palette=_colours(place.join(colours[0]), found.classes))
    if settings.void is not None:
        found = replace(found, void=settings.void)
    clash = [spec.name for spec in found.classes if spec.id == found.void]
    if clash:
        raise DataError(f"{found.uri}: the value {found.void} is both void and {clash[0]}")
    return found


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
        raise DataError(f"{found.uri}: without class maps there is exactly one class of things")
    return found


def _read_list(uri: str) -> ClassList:
    if PurePosixPath(uri).suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(uri)
    rows = _read_plain(uri)
    void = [i for i, row in enumerate(rows) if row.name.lower() in _VOID_NAMES]
    named = [(i, row.name) for i, row in enumerate(rows) if i not in void]
    if not 0 < len(named) < VOID or len(rows) > VOID:
        raise DataError(f"{uri} takes 1 to {VOID - 1} classes, not {len(named)}")
    classes = tuple(ClassSpec(id=i, name=name, kind=_kind(name)) for i, name in named)
    _check_distinct(uri, classes)
    colours = [(row.color, VOID if i in void else i) for i, row in enumerate(rows)]
    palette = tuple((color, value) for color, value in colours if color is not None)
    return ClassList(uri, classes, void[0] if void else VOID, _checked_palette(uri, palette))


def _kind(name: str) -> Literal["background", "stuff"]:
    return "background" if name.lower() in _BACKGROUND_NAMES else "stuff"


def _read_yaml(uri: str) -> ClassList:
    try:
        found = _ClassFile.model_validate(parse_yaml(read_text(uri), uri))
    except SettingsError as error:
        raise DataError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{uri}: {where}: {first['msg']}") from error
    ordered = sorted(found.classes, key=lambda spec: spec.id)
    classes = tuple(ClassSpec(id=one.id, name=one.name, kind=one.kind) for one in ordered)
    _check_distinct(uri, classes)
    palette = [(one.color, one.id) for one in ordered if one.color is not None]
    if found.void_color is not None:
        palette.append((found.void_color, VOID))
    return ClassList(uri, classes, found.void, _checked_palette(uri, tuple(palette)))


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


def _colours(uri: str, classes: Classes) -> tuple[tuple[Color, int], ...]:
    """The colours of a palette file; those of no listed class mean that nobody labelled."""
    ids = {spec.name.lower(): spec.id for spec in classes}
    rows = [(row.color, row.name.lower()) for row in _read_plain(uri)]
    palette = tuple((color, ids.get(name, VOID)) for color, name in rows if color is not None)
    missing = sorted(set(ids) - {name for _, name in rows})
    if missing or len(palette) < len(rows):
        raise DataError(f"{uri} has no colour for {missing[0] if missing else 'every name'}")
    return _checked_palette(uri, palette)


def _read_plain(uri: str) -> list[_Row]:
    if uri.lower().endswith(".csv"):
        rows = [{key.lower(): value for key, value in row.items()} for row in read_rows(uri)]
        if not rows or not {"name", "r", "g", "b"} <= rows[0].keys():
            raise DataError(f"{uri} needs a header with the columns name, r, g, b")
        return [_Row(row["name"], _color(uri, [row[c] for c in "rgb"])) for row in rows]
    found = []
    for line in read_text(uri).splitlines():
        words = line.split(None, 3)
        if len(words) == 4 and all(word.isdecimal() for word in words[:3]):
            found.append(_Row(words[3].strip(), _color(uri, words[:3])))
        elif words:
            found.append(_Row(line.strip(), None))
    return found


def _color(uri: str, words: list[str]) -> Color:
    levels = [int(word) if word.isdecimal() else -1 for word in words]
    if not all(0 <= level <= 255 for level in levels):
        raise DataError(f"{uri}: {' '.join(words)} is no colour: r, g and b are 0 to 255")
    return levels[0], levels[1], levels[2]
