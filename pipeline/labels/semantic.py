"""Class maps without objects, as semantic data sets keep them: `pairs` says where.

    classes.yaml, class_dict.csv, label_colors.txt, codes.txt or classes.txt …   the classes
    valid.txt, or train.txt, val.txt and test.txt     the splits, where no folders say them
    ImageSets/Segmentation/train.txt and val.txt      likewise, of Pascal VOC

A map is an 8-bit image of class ids, also one with a palette of its own, or in the colours of the
class list or the palette file, also in gray or by a palette (`legend` says when).
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place, first_few
from pipeline.labels.classes import CLASSES_FILE, LIST_FILES, find_classes
from pipeline.labels.files import read_text
from pipeline.labels.maps import read_maps
from pipeline.labels.pairs import (
    VOC,
    VOC_OBJECTS,
    Pair,
    are_objects,
    distinct_name,
    find_pairs,
    match,
)
from pipeline.labels.splits import hold_out, named_in, splits_of_folders
from pipeline.records import AnnotatedImage, Problem
from pipeline.wording import plural

_VOC_SPLITS = ("train", "val", "test")


def fits(place: Place) -> bool:
    """Folders in pairs; images/ with labels/ are object ids unless a class list speaks for maps."""
    return bool(find_pairs(place)) and not are_objects(place) and VOC_OBJECTS not in place.names


def open_semantic(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Pair images with maps, and find classes and splits."""
    listed = find_classes(place, settings)
    if listed is None:
        known = ", ".join((CLASSES_FILE, *LIST_FILES))
        raise DataError(
            f"{place.uri} has no class list ({known}): write classes.txt, a name a line in the "
            "order of ids, void where nobody labelled, or name a list with --labels.classes; if "
            "the maps are of object ids, --labels.format folder reads them"
        )
    pairs = find_pairs(place)
    if not pairs:
        raise DataError(f"{place.uri} has no folder of images with one of class maps: {LOOKS_FOR}")
    problems: list[Problem] = []
    notes: list[Problem] = []
    found: dict[str, tuple[Pair, str, str]] = {}
    bare = []
    for pair in pairs:
        for name, (image, label) in match(place, pair, problems, notes).items():
            name = distinct_name(name, pair, found)
            if name in found:
                problems.append(Problem(image, f"has the name of {found[name][1]}"))
            elif label is not None:
                found[name] = (pair, image, label)
            elif pair.images == VOC[:1]:  # of which only some have class maps
                bare.append(name)
            else:
                problems.append(Problem(image, f"has no class map in {pair.maps_folder}"))
    if bare:
        what = f"holds {plural(len(bare), 'image')} without a class map, left out"
        notes.append(Problem(place.join(VOC[0]), f"{what}: {first_few(sorted(bare))}"))
    rows = _splits(place, found, val_fraction, problems, notes)
    images = with_maps(found, rows, "semantic", listed.legend.to_json())
    return AnnotatedData(
        place.uri, "semantic", images, listed.classes, listed.void, tuple(problems), tuple(notes)
    )


def with_maps(
    found: Mapping[str, tuple[Pair, str, str]],
    rows: Mapping[str, dict[str, str]],
    format: str,
    annotation: str = "",
) -> tuple[AnnotatedImage, ...]:
    """The images of some rows with their class maps.

    Args:
        found: name → its pair, and URIs of the image and of its map.
        rows: name → its split and its further columns.
        annotation: what the format's reader is told of each.
    """
    return tuple(
        AnnotatedImage(
            name=name,
            split=row["split"],
            image_uri=found[name][1],
            instances_uri=None,
            semantic_uri=found[name][2],
            attributes={k: v for k, v in row.items() if k not in ("name", "split")},
            format=format,
            annotation=annotation,
        )
        for name, row in rows.items()
    )


def _splits(
    place: Place,
    found: dict[str, tuple[Pair, str, str]],
    val_fraction: float,
    problems: list[Problem],
    notes: list[Problem],
) -> dict[str, dict[str, str]]:
    """Name → its row: by folders, by lists, by manifest.csv, or by name."""
    folders = {name: pair.split for name, (pair, _, _) in found.items()}
    said = _voc_splits(place, set(found), problems, notes) if VOC[2] in place.names else {}
    if all(folders.values()) or not said:
        return splits_of_folders(place, folders, val_fraction, problems, notes)
    unlisted = sorted(found.keys() - said.keys())
    if unlisted:
        what = f"lists {len(unlisted):,} of {len(found):,} images in no split; they are left out"
        notes.append(Problem(place.join(VOC[2]), f"{what}: {first_few(unlisted)}"))
    splits = hold_out(said, val_fraction)
    return {name: {"split": splits[name]} for name in found if name in splits}


def _voc_splits(
    place: Place, known: set[str], problems: list[Problem], notes: list[Problem]
) -> dict[str, str]:
    splits: dict[str, str] = {}
    folder = place.join(VOC[2], "Segmentation")
    lists = {PurePosixPath(n).stem: n for n in storage.list_names(folder) if n.endswith(".txt")}
    for split in _VOC_SPLITS:
        if split not in lists:
            continue
        uri = storage.join(folder, lists[split])
        named, missing = named_in(read_text(uri), known)
        splits |= dict.fromkeys(named, split)
        if split == "test":  # whose class maps are kept secret
            continue
        if not named:
            problems.append(Problem(uri, "names no image that has a class map"))
        elif missing:
            what = f"names {len(missing):,} without a class map: {first_few(missing)}"
            notes.append(Problem(uri, what))
    return splits


LOOKS_FOR = "train/ with trainannot/ or train_labels/, or images/ with masks/, and a class list"
FORMAT = Format(
    looks_for=LOOKS_FOR,
    settings=frozenset({"classes", "palette", "void"}),
    fits=fits,
    open=open_semantic,
    read=read_maps,
)
