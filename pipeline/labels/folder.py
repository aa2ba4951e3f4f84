"""Annotated images in a folder or under a prefix:

    images/NAME.png       any readable image
    labels/NAME.png       object ids: an integer PNG or TIFF, 0 is background   (and, or)
    semantic/NAME.png     class ids, or their colours where classes.yaml says them
    classes.yaml          the classes; needed with semantic/
    manifest.csv          optional: name, split, and further columns

The same for each split, as train/images/ and train/labels/ or as images/train/ and labels/train/,
and Cellpose's pairs of x.png and x_masks.png. Object ids in masks/ are read where the format is
named: other data sets have class maps there.

Without classes.yaml there is one class of things, named `object`.
"""

from dataclasses import dataclass

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import classes_or_object
from pipeline.labels.files import by_stem
from pipeline.labels.manifest import is_manifest
from pipeline.labels.maps import read_maps
from pipeline.labels.pairs import (
    OBJECT_MAPS,
    SEMANTIC,
    Pair,
    are_objects,
    distinct_name,
    find_pairs,
    match,
)
from pipeline.labels.splits import splits_of_folders
from pipeline.records import AnnotatedImage, Problem


def fits(place: Place) -> bool:
    """images/ with labels/ or semantic/, where nothing speaks for another format."""
    return are_objects(place) and not is_manifest(place)


def open_folder(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Find the images, labels, classes and splits of an annotated folder."""
    problems: list[Problem] = []
    pairs = find_pairs(place, OBJECT_MAPS)
    if not pairs:
        raise DataError(f"{place.uri} has no folder of images with one of labels: {LOOKS_FOR}")
    notes: list[Problem] = []
    files: dict[str, _Files] = {}
    for pair in pairs:
        for name, one in _files(place, pair, problems, notes).items():
            name = distinct_name(name, pair, files)
            if name in files:
                problems.append(Problem(one.image, f"has the name of {files[name].image}"))
            files[name] = one
    has_semantic = any(one.semantic for one in files.values())
    listed = classes_or_object(place, settings, has_semantic)
    said = {name: one.pair.split for name, one in files.items()}
    found = []
    for name, row in splits_of_folders(place, said, val_fraction, problems, notes).items():
        one = files[name]
        if not one.instances and not one.semantic:
            what = f"has no label: neither {one.pair.maps_folder}{name}.* nor {SEMANTIC}/"
            problems.append(Problem(one.image, what))
        elif has_semantic and not one.semantic:
            what = f"has no class map: {SEMANTIC}/{name}.* is missing"
            problems.append(Problem(one.image, what))
        else:
            found.append(
                AnnotatedImage(
                    name=name,
                    split=row["split"],
                    image_uri=one.image,
                    instances_uri=one.instances,
                    semantic_uri=one.semantic,
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


@dataclass(frozen=True)
class _Files:
    pair: Pair
    image: str
    instances: str | None
    semantic: str | None


def _files(
    place: Place, pair: Pair, problems: list[Problem], notes: list[Problem]
) -> dict[str, _Files]:
    """The files of each image in a pair of folders, with its class map in a third."""
    matched = match(place, pair, problems, notes)
    if SEMANTIC in pair.maps:
        return {name: _Files(pair, image, None, one) for name, (image, one) in matched.items()}
    semantic: dict[str, str] = {}
    if pair.maps != pair.images:
        beside = [SEMANTIC if part in OBJECT_MAPS else part for part in pair.maps]
        semantic = by_stem(place.join(*beside), problems)
    return {
        name: _Files(pair, image, one, semantic.get(name)) for name, (image, one) in matched.items()
    }


LOOKS_FOR = "images/ with labels/ (object ids) or semantic/ (class ids), also with train/, val/"
FORMAT = Format(
    looks_for=LOOKS_FOR,
    settings=frozenset({"classes", "palette", "void"}),
    fits=fits,
    open=open_folder,
    read=read_maps,
)
