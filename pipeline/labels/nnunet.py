"""nnU-Net's raw data sets: class maps, and images that the number of a channel ends.

    dataset.json               labels: {name: id}, file_ending
    imagesTr/NAME_0000.png     an image, all channels in one file, as of RGB
    labelsTr/NAME.png          its class map
    imagesTs/ and labelsTs/    likewise, to test on

See documentation/dataset_format.md of MIC-DKFZ/nnUNet; data sets of its first version, whose labels
are {id: name}, are read as well.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place, first_few
from pipeline.labels.classes import means_background, means_void
from pipeline.labels.files import is_image, read_text, stem
from pipeline.labels.maps import read_maps
from pipeline.labels.pairs import CHANNEL, Pair, distinct_name, match
from pipeline.labels.semantic import with_maps
from pipeline.labels.splits import named_splits
from pipeline.records import VOID, Classes, ClassSpec, Problem
from pipeline.wording import plural

_LIST = "dataset.json"
_PAIRS = (
    Pair(("imagesTr",), ("labelsTr",), "train"),
    Pair(("imagesTs",), ("labelsTs",), "test"),
)
_NO_VOID = -1  # nothing but its label ignore is: a 255 that was meant to be a 1 must not pass
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def fits(place: Place) -> bool:
    """Folders of images and of labels, named as only nnU-Net names them."""
    return {*_PAIRS[0].images, *_PAIRS[0].maps} <= set(place.names)


def open_nnunet(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Pair images with maps; where no list names those to validate on, a share is held out."""
    if not fits(place):
        raise DataError(f"{place.uri} lacks one of {LOOKS_FOR}")
    if _LIST not in place.names:
        raise DataError(
            f"{place.join(_LIST)} is missing: it names the classes, as in "
            '{"labels": {"background": 0, "cell": 1}}'
        )
    classes, void = _read_classes(place.join(_LIST))
    problems: list[Problem] = []
    notes: list[Problem] = []
    found: dict[str, tuple[Pair, str, str]] = {}
    for pair in _PAIRS:
        if pair.split == "test" and not any(map(is_image, place.below(*pair.maps).names)):
            continue
        _check_channels(place.below(*pair.images))
        bare = []
        for file, (image, label) in match(place, pair, problems, notes).items():
            name = distinct_name(file.removesuffix(CHANNEL), pair, found)
            if label is not None:
                found[name] = (pair, image, label)
            elif pair.split == "test":
                bare.append(name)
            else:
                problems.append(Problem(image, f"has no class map in {pair.maps_folder}"))
        if bare:
            what = f"has no class map of {plural(len(bare), 'image')}, left out"
            notes.append(Problem(place.join(*pair.maps), f"{what}: {first_few(sorted(bare))}"))
    training = [name for name, (pair, _, _) in found.items() if pair.split == "train"]
    rows = named_splits(place, training, val_fraction, problems, notes)
    rows |= {n: {"split": "test"} for n, (pair, _, _) in found.items() if pair.split == "test"}
    images = with_maps(found, rows, "nnunet")
    return AnnotatedData(place.uri, "nnunet", images, classes, void, tuple(problems), tuple(notes))


def _check_channels(folder: Place) -> None:
    """Refuse images whose channels are in files of their own."""
    stems = {stem(name) for name in folder.names if is_image(name)}
    for name in sorted(stems):
        channel = _CHANNEL.fullmatch(name)
        if channel and f"_{channel[2]}" != CHANNEL and channel[1] + CHANNEL in stems:
            raise DataError(
                f"{folder.join(name)}.* is a channel of an image in several files; join those of "
                f"each image into one TIFF, {channel[1]}{CHANNEL}.tif: an array of channels, "
                "height and width"
            )


def _read_classes(uri: str) -> tuple[Classes, int]:
    """The classes of dataset.json, and the value of pixels that nobody labelled."""
    try:
        labels = json.loads(read_text(uri))["labels"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{uri} is not nnU-Net's: it is JSON with the key labels") from error
    ids = _ids(uri, labels)
    void = [value for name, value in ids.items() if means_void(name)]
    named = sorted((value, name) for name, value in ids.items() if not means_void(name))
    values = [value for value, _ in named]
    if not named or len(set(values)) < len(values) or not all(0 <= v < VOID for v in ids.values()):
        raise DataError(f"{uri}: labels takes names with ids of their own, from 0 to {VOID - 1}")
    classes = tuple(
        ClassSpec(
            id=value,
            name=name,
            kind="background" if value == 0 or means_background(name) else "stuff",
        )
        for value, name in named
    )
    return classes, void[0] if void else _NO_VOID


def _ids(uri: str, labels: Any) -> dict[str, int]:
    """Name → id."""
    if not isinstance(labels, Mapping):
        raise DataError(f"{uri}: labels is no list of names with ids")
    if labels and all(isinstance(value, str) for value in labels.values()):  # {id: name}
        labels = {name: int(key) if key.isdecimal() else key for key, name in labels.items()}
    for name, value in labels.items():
        if isinstance(value, list):
            raise DataError(
                f"{uri}: {name} is a region of several labels, {value}, which overlap others; give "
                "each label a name and an id"
            )
        if not isinstance(value, int):
            raise DataError(f"{uri}: {name} has the id {value!r}, which is no whole number")
    return dict(labels)


LOOKS_FOR = "imagesTr/ with labelsTr/ and dataset.json"
FORMAT = Format(
    looks_for=LOOKS_FOR,
    settings=frozenset(),
    fits=fits,
    open=open_nnunet,
    read=read_maps,
)
