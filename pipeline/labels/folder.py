"""Annotated images in a folder or under a prefix:

    images/NAME.png       any readable image
    labels/NAME.png       object ids: an integer PNG or TIFF, 0 is background   (and, or)
    semantic/NAME.png     class ids, or their colours where classes.yaml says them
    classes.yaml          the classes; needed with semantic/
    manifest.csv          optional: name, split, and further columns

Without classes.yaml there is one class of things, named `object`.
"""

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.images.signatures import READABLE
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import LIST_FILES, classes_or_object
from pipeline.labels.files import by_stem
from pipeline.labels.manifest import is_manifest
from pipeline.labels.maps import read_maps
from pipeline.labels.splits import named_splits
from pipeline.records import AnnotatedImage, Problem


def fits(place: Place) -> bool:
    """images/ with labels/ or semantic/, where nothing speaks for another format."""
    is_other = set(LIST_FILES) & set(place.names) or is_manifest(place)
    has_both = "images" in place.names and {"labels", "semantic"} & set(place.names)
    return bool(has_both) and not is_other


def open_folder(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Find the images, labels, classes and splits of an annotated folder."""
    problems: list[Problem] = []
    notes: list[Problem] = []
    images = by_stem(place.join("images"), problems)
    if not images:
        raise DataError(f"{place.join('images')} holds no {READABLE} image")
    instances = by_stem(place.join("labels"), problems)
    semantic = by_stem(place.join("semantic"), problems)
    listed = classes_or_object(place, settings, bool(semantic))
    found = []
    for name, row in named_splits(place, images, val_fraction, problems, notes).items():
        if name not in instances and name not in semantic:
            what = f"has no label: neither labels/{name}.* nor semantic/"
            problems.append(Problem(images[name], what))
        elif semantic and name not in semantic:
            what = f"has no class map: semantic/{name}.* is missing"
            problems.append(Problem(images[name], what))
        else:
            found.append(
                AnnotatedImage(
                    name=name,
                    split=row["split"],
                    image_uri=images[name],
                    instances_uri=instances.get(name),
                    semantic_uri=semantic.get(name),
                    attributes={k: v for k, v in row.items() if k not in ("name", "split")},
                    format="folder",
                    annotation=listed.legend.to_json(),
                )
            )
    return AnnotatedData(
        place.uri,
        "folder",
        tuple(found),
        listed.classes,
        listed.void,
        tuple(problems),
        tuple(notes),
    )


FORMAT = Format(
    looks_for="images/ with labels/ (object ids) or semantic/ (class ids)",
    settings=frozenset({"classes", "palette", "void"}),
    fits=fits,
    open=open_folder,
    read=read_maps,
)
