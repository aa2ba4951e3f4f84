"""Images whose objects' outlines lie in a file each: Labelme's JSON, QuPath's GeoJSON, YOLO's text

    NAME.png and NAME.json, NAME.geojson                 in one folder, also in train/, val/
    images/NAME.png and labels/NAME.txt                  also with train/, val/ inside or around
    images/NAME.png and annotations/NAME.geojson         the same

Classes are what the files name, in the order of the alphabet; YOLO's those of data.yaml or
classes.txt, in its order. They are things, unless classes.yaml says that some are stuff. Images
without a file are left out, but for YOLO's, where that means no object.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import yaml

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import CLASSES_FILE, find_classes
from pipeline.labels.compose import Shape, compose
from pipeline.labels.files import checked_size, read_text
from pipeline.labels.outline_files import READERS, OutlineFile
from pipeline.labels.outline_places import YOLO, Layout, Outlined, find_layout, match_outlines
from pipeline.labels.outline_shapes import draw_areas
from pipeline.labels.splits import splits_of_folders
from pipeline.records import VOID, AnnotatedImage, Classes, ClassSpec, Label, Problem, Remark

UNSEEN = "outlines that cover no pixel and are left out"
_YOLO_NAMES = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
_YOLO_LISTS = ("classes.txt", "obj.names")
_THREADS = 16


def fits(place: Place) -> bool:
    """Files of outlines that are named as images are."""
    return not place.is_file and find_layout(place) is not None


def open_outlines(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Read every file of outlines, and give each image the text of its own."""
    layout = find_layout(place)
    if layout is None:
        raise DataError(f"{place.uri} has no files of outlines that are named as its images are")
    problems: list[Problem] = []
    notes: list[Problem] = []
    files = match_outlines(place, layout, problems, notes)
    read = _read_all(files, layout, problems)
    classes, numbers = _classes(place, settings, layout, read)
    said = {name: file.split for name, file in files.items()}
    found = []
    for name, row in splits_of_folders(place, said, val_fraction, problems, notes).items():
        if name in read:
            found.append(
                AnnotatedImage(
                    name=name,
                    split=row["split"],
                    image_uri=files[name].image,
                    instances_uri=files[name].outlines or place.uri,
                    semantic_uri=None,
                    attributes={k: v for k, v in row.items() if k not in ("name", "split")},
                    format="outlines",
                    annotation=_annotation(read[name], numbers),
                )
            )
    return AnnotatedData(
        place.uri, "outlines", tuple(found), classes, VOID, tuple(problems), tuple(notes)
    )


def _read_all(
    files: dict[str, Outlined], layout: Layout, problems: list[Problem]
) -> dict[str, OutlineFile]:
    """Name → what its file says; a file that can't be read is a problem."""

    def read(file: Outlined) -> OutlineFile | DataError:
        try:
            return READERS[layout.suffix](file.outlines) if file.outlines else OutlineFile([])
        except DataError as error:
            return error

    found = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, file in zip(files, pool.map(read, files.values()), strict=True):
            if isinstance(file, DataError):
                where, _, what = str(file).partition(" ")
                problems.append(Problem(where, what))
            else:
                found[name] = file
    return found


def _classes(
    place: Place,
    settings: LabelSettings,
    layout: Layout,
    read: dict[str, OutlineFile],
) -> tuple[Classes, dict[str, int]]:
    """The classes, and the id of what the files call each."""
    used = sorted({outline.class_name for file in read.values() for outline in file.outlines})
    names = {name: name for name in used}
    if layout.suffix == YOLO:
        known = _yolo_names(place)
        missing = [n for n in used if known and n not in known]
        if missing:
            raise DataError(f"{place.uri}: files name class {missing[0]}, of {len(known)} in all")
        names = known or {n: f"class {n}" for n in sorted(used, key=int)}
    listed = None
    if settings.classes is not None or CLASSES_FILE in place.names:
        listed = find_classes(place, settings)
    if listed is not None:
        ids = {spec.name: spec.id for spec in listed.classes}
        unknown = [name for name in names.values() if name not in ids]
        if unknown:
            raise DataError(f"{listed.uri} has no class {unknown[0]}, which files of outlines name")
        return listed.classes, {said: ids[name] for said, name in names.items()}
    if len(names) >= VOID:
        raise DataError(f"{place.uri} has {len(names)} classes; it takes up to {VOID - 1}")
    numbers = {said: number for number, said in enumerate(names, start=1)}
    things = [ClassSpec(id=numbers[said], name=names[said], kind="thing") for said in names]
    ground = next(n for n in ("background", "no object") if n not in names.values())
    return (ClassSpec(id=0, name=ground, kind="background"), *things), numbers


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


def _annotation(file: OutlineFile, numbers: dict[str, int]) -> str:
    """JSON: size, whether points are shares of it, and of each outline class id and areas."""
    outlines = [[numbers[one.class_name], one.areas] for one in file.outlines]
    return json.dumps({"size": file.size, "relative": file.relative, "outlines": outlines})


def read_outlines(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of the file; stuff lies under them, what comes later on top."""
    record = json.loads(image.annotation)
    height, width = checked_size(image, record["size"], shape)
    things = {spec.id for spec in classes if spec.kind == "thing"}
    scale = (width, height) if record["relative"] else (1, 1)
    background = next((spec.id for spec in classes if spec.kind == "background"), 0)
    ground = np.full((height, width), background, np.uint8)
    shapes: list[Shape] = []
    unseen = 0
    for number, (class_id, areas) in enumerate(record["outlines"]):
        where = f"{image.instances_uri} outline {number}"
        drawn = draw_areas(areas, class_id, (height, width), scale, where)
        if drawn is None:
            unseen += 1
        elif class_id in things:
            shapes.append(drawn)
        else:
            box = drawn.box
            ground[box.y0 : box.y1, box.x0 : box.x1][drawn.mask] = class_id
    remarks = (Remark(UNSEEN, unseen),) if unseen else ()
    return replace(compose(shapes, ground), remarks=remarks)


FORMAT = Format(
    looks_for="outlines in a file an image (Labelme, QuPath's GeoJSON, YOLO), named as the image",
    settings=frozenset({"classes"}),
    fits=fits,
    open=open_outlines,
    read=read_outlines,
)
