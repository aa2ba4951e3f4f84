"""Images whose objects' outlines lie in a file each: Labelme's JSON, QuPath's GeoJSON, YOLO's text

    NAME.png and NAME.json, NAME.geojson                 in one folder, also in train/, val/
    images/NAME.png and labels/NAME.txt                  also with train/, val/ inside or around
    images/NAME.png and annotations/NAME.geojson         the same

Classes are what the files name, in the order of the alphabet; YOLO's those of data.yaml or
classes.txt, in its order. They are things, unless classes.yaml says that some are stuff; what is
named void or ignore, as QuPath's Ignore*, nobody labelled. Images without a file are left out, but
for YOLO's, where that means no object.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.compose import Shape, compose
from pipeline.labels.files import checked_size
from pipeline.labels.outline_classes import outlined_classes
from pipeline.labels.outline_files import READERS, OutlineFile
from pipeline.labels.outline_places import Layout, Outlined, find_layout, match_outlines
from pipeline.labels.outline_shapes import draw_areas
from pipeline.labels.splits import splits_of_folders
from pipeline.records import VOID, AnnotatedImage, Classes, Label, Problem, Remark

UNSEEN = "outlines that cover no pixel and are left out"
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
    classes, numbers = outlined_classes(place, settings, layout, read.values())
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


def _annotation(file: OutlineFile, numbers: dict[str, int]) -> str:
    """JSON: size, whether points are shares of it, and of each outline class id and areas."""
    outlines = [[numbers[one.class_name], one.areas] for one in file.outlines]
    return json.dumps({"size": file.size, "relative": file.relative, "outlines": outlines})


def read_outlines(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """Objects in the order of the file; stuff and void lie under them, what comes later on top."""
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
