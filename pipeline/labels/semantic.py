"""Class maps without objects, as semantic data sets keep them:

    train/ and trainannot/ or train_labels/, also for val/ and test/             CamVid
    images/ and masks/, labels/ or annotations/, also with train/, val/ inside    ADE20K, fast.ai
    JPEGImages/ and SegmentationClass/, ImageSets/Segmentation/train.txt          Pascal VOC
    classes.yaml, class_dict.csv, label_colors.txt, codes.txt or classes.txt      the classes
    valid.txt, or train.txt, val.txt and test.txt     the splits, where no folders say them

A map is an 8-bit image of class ids, also one with a palette of its own, or in the colours of the
class list or the palette file, also in gray or by a palette (`legend` says when). Its name is the
image's, or that followed by one of `_ENDINGS`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.images.signatures import READABLE
from pipeline.labels.base import AnnotatedData, Format, Place, first_few
from pipeline.labels.classes import CLASSES_FILE, LIST_FILES, find_classes
from pipeline.labels.files import is_image, read_text, stem
from pipeline.labels.maps import read_maps
from pipeline.labels.splits import hold_out, named_in, named_splits, split_of
from pipeline.records import AnnotatedImage, Problem

_AFTER_SPLIT = ("annot", "_labels", "_annot", "_masks", "_mask", "_label", "labels", "masks")
_IMAGES, _MAPS = (
    ("images", "image", "imgs"),
    ("masks", "mask", "labels", "annotations", "labelmaps"),
)
_ENDINGS = ("", "_L", "_P", "_mask", "_label", "_labels", "_gt", "_seg")
_VOC = ("JPEGImages", "SegmentationClass", "ImageSets")
_VOC_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class _Pair:
    """A folder of images, that of their maps, and the split that the folders' names say."""

    images: tuple[str, ...]
    maps: tuple[str, ...]
    split: str | None


def fits(place: Place) -> bool:
    """Folders in pairs; images/ with labels/ are object ids unless a class list speaks for maps."""
    names = set(place.names)
    if "images" in names and "labels" in names and not set(LIST_FILES) & names:
        return False
    return next(_pairs(place), None) is not None


def open_semantic(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Pair images with maps, and find classes and splits."""
    listed = find_classes(place, settings)
    if listed is None:
        known = ", ".join((CLASSES_FILE, *LIST_FILES))
        raise DataError(
            f"{place.uri} has no class list ({known}): write classes.txt, a name a line in the "
            "order of ids, void where nobody labelled, or name a list with --labels.classes"
        )
    pairs = list(_pairs(place))
    if not pairs:
        raise DataError(f"{place.uri} has no folder of images with one of class maps: {LOOKS_FOR}")
    problems: list[Problem] = []
    notes: list[Problem] = []
    found: dict[str, tuple[_Pair, str, str]] = {}
    for pair in pairs:
        for name, image, label in _matched(place, pair, problems):
            if name in found and pair != found[name][0]:
                # The same name in the folders of two splits: told apart by the split's.
                name = f"{pair.split or pair.images[0]}/{name}"
            if name in found:
                problems.append(Problem(image, f"has the name of {found[name][1]}"))
            else:
                found[name] = (pair, image, label)
    rows = _splits(place, found, val_fraction, problems, notes)
    images = tuple(
        AnnotatedImage(
            name=name,
            split=row["split"],
            image_uri=found[name][1],
            instances_uri=None,
            semantic_uri=found[name][2],
            attributes={k: v for k, v in row.items() if k not in ("name", "split")},
            format="semantic",
            annotation=listed.legend.to_json(),
        )
        for name, row in rows.items()
    )
    return AnnotatedData(
        place.uri, "semantic", images, listed.classes, listed.void, tuple(problems), tuple(notes)
    )


def _pairs(place: Place) -> Iterator[_Pair]:
    names = set(place.names)
    for name in place.names:
        split = split_of(name)
        maps = [name + end for end in _AFTER_SPLIT if name + end in names]
        if split and maps:
            yield _Pair((name,), (maps[0],), split)
    if set(_VOC[:2]) <= names:
        yield _Pair((_VOC[0],), (_VOC[1],), None)
    images = [name for name in _IMAGES if name in names]
    maps = [name for name in _MAPS if name in names]
    if not images or not maps:
        return
    split_folders = _split_folders(place.join(maps[0]))
    if not split_folders and not any(map(is_image, storage.list_names(place.join(maps[0])))):
        return  # such as COCO's annotations/, which holds JSON
    for name in split_folders:
        yield _Pair((images[0], name), (maps[0], name), split_of(name))
    if not split_folders:
        yield _Pair((images[0],), (maps[0],), None)


def _split_folders(uri: str) -> list[str]:
    return [name for name in storage.list_names(uri) if "." not in name and split_of(name)]


def _matched(place: Place, pair: _Pair, problems: list[Problem]) -> Iterator[tuple[str, str, str]]:
    """Name, image and map of each image of a pair of folders."""
    folder = place.join(*pair.images)
    maps = {stem(n): n for n in storage.list_names(place.join(*pair.maps)) if is_image(n)}
    images = [name for name in storage.list_names(folder) if is_image(name)]
    if not images:
        problems.append(Problem(folder, f"holds no {READABLE} image"))
    for file in images:
        fitting = [stem(file) + end for end in _ENDINGS if stem(file) + end in maps]
        uri = storage.join(folder, file)
        if fitting:
            yield stem(file), uri, place.join(*pair.maps, maps[fitting[0]])
        elif pair.images[0] != _VOC[0]:  # of which only some have class maps
            problems.append(Problem(uri, f"has no class map in {'/'.join(pair.maps)}/"))


def _splits(
    place: Place,
    found: dict[str, tuple[_Pair, str, str]],
    val_fraction: float,
    problems: list[Problem],
    notes: list[Problem],
) -> dict[str, dict[str, str]]:
    """Name → its row: by folders, by lists, by manifest.csv, or by name."""
    said = {name: pair.split for name, (pair, _, _) in found.items() if pair.split}
    if len(said) < len(found):
        said = _voc_splits(place, set(found), problems, notes) if _VOC[2] in place.names else {}
        unlisted = sorted(found.keys() - said.keys())
        if said and unlisted:
            what = (
                f"lists {len(unlisted):,} of {len(found):,} images in no split; they are left out"
            )
            notes.append(Problem(place.join(_VOC[2]), f"{what}: {first_few(unlisted)}"))
    if not said:
        return named_splits(place, found, val_fraction, problems, notes)
    splits = hold_out(said, val_fraction)
    return {name: {"split": splits[name]} for name in found if name in splits}


def _voc_splits(
    place: Place, known: set[str], problems: list[Problem], notes: list[Problem]
) -> dict[str, str]:
    splits: dict[str, str] = {}
    folder = place.join(_VOC[2], "Segmentation")
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
