"""The classes that files of outlines name, and those of lists beside them."""

from collections.abc import Iterable

import yaml

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import Place
from pipeline.labels.classes import CLASSES_FILE, find_classes, means_background, means_void
from pipeline.labels.files import read_text
from pipeline.labels.outline_files import OutlineFile
from pipeline.labels.outline_places import YOLO, Layout
from pipeline.records import VOID, Classes, ClassSpec

_YOLO_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_YOLO_LISTS = ("classes.txt", "obj.names")


def outlined_classes(
    place: Place, settings: LabelSettings, layout: Layout, files: Iterable[OutlineFile]
) -> tuple[Classes, dict[str, int]]:
    """The classes, and the id in maps of what the files call each; of void, too.

    Raises:
        DataError: a file names a class that a list lacks, or there are too many.
    """
    names = _names(place, layout, {one.class_name for file in files for one in file.outlines})
    void = {said: VOID for said, name in names.items() if means_void(name)}
    listed = None
    if settings.classes is not None or CLASSES_FILE in place.names:
        listed = find_classes(place, settings)
    if listed is not None:
        ids = {spec.name: spec.id for spec in listed.classes}
        unknown = [name for said, name in names.items() if name not in ids and said not in void]
        if unknown:
            raise DataError(f"{listed.uri} has no class {unknown[0]}, which files of outlines name")
        return listed.classes, void | {s: ids[name] for s, name in names.items() if name in ids}
    ground = {said: 0 for said, name in names.items() if means_background(name)}
    things = [said for said in names if said not in void and said not in ground]
    if len(things) >= VOID:
        raise DataError(f"{place.uri} has {len(things)} classes; it takes up to {VOID - 1}")
    numbers = {said: number for number, said in enumerate(things, start=1)}
    called = [names[said] for said in ground] or ["background"]
    classes = [ClassSpec(id=0, name=called[0], kind="background")]
    classes += [ClassSpec(id=numbers[said], name=names[said], kind="thing") for said in things]
    return tuple(classes), numbers | void | ground


def _names(place: Place, layout: Layout, used: set[str]) -> dict[str, str]:
    """What files call a class → its name."""
    if layout.suffix != YOLO:
        return {name: name for name in sorted(used)}
    known = _yolo_names(place)
    if not known:
        return {number: f"class {number}" for number in sorted(used, key=int)}
    missing = sorted(used - known.keys(), key=int)
    if missing:
        raise DataError(f"{place.uri}: files name class {missing[0]}, of {len(known)} in all")
    return known


def _yolo_names(place: Place) -> dict[str, str]:
    """Number → name, of data.yaml or a list; nothing where there is none."""
    for file in (name for name in _YOLO_NAMES if name in place.names):
        uri = place.join(file)
        try:
            data = yaml.safe_load(read_text(uri))
        except yaml.YAMLError as error:
            raise DataError(f"{uri} is not YAML: {str(error).splitlines()[0]}") from error
        names = data.get("names") if isinstance(data, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if not isinstance(names, dict) or not names:
            raise DataError(f"{uri} has no names of classes")
        return {str(number): str(name) for number, name in names.items()}
    for file in _YOLO_LISTS:
        for folder in (place, *(place.below(n) for n in ("labels",) if n in place.names)):
            if file in folder.names:
                lines = read_text(folder.join(file)).split("\n")
                return {str(i): line.strip() for i, line in enumerate(lines) if line.strip()}
    return {}
