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
from dataclasses import replace
from typing import Any

from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import AnnotatedData, Format, Place, first_few
from pipeline.labels.classes import means_background, means_void
from pipeline.labels.files import by_stem, read_text
from pipeline.labels.maps import read_maps
from pipeline.labels.splits import hold_out
from pipeline.records import VOID, AnnotatedImage, Classes, ClassSpec, Problem
from pipeline.wording import plural

_LIST = "dataset.json"
_FOLDERS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def fits(place: Place) -> bool:
    """Folders of images and of labels, and the file that names the classes."""
    return {_LIST, *_FOLDERS[0][:2]} <= set(place.names)


def open_nnunet(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Pair images with maps; a share of the training images is held out, as of no fold."""
    if not fits(place):
        raise DataError(f"{place.uri} lacks one of {LOOKS_FOR}")
    classes, void = _read_classes(place.join(_LIST))
    found: dict[str, AnnotatedImage] = {}
    problems: list[Problem] = []
    notes: list[Problem] = []
    for folder, maps_folder, split in _FOLDERS:
        if maps_folder not in place.names:
            continue
        maps = by_stem(place.join(maps_folder), problems)
        for name, uri in _images(place, folder, problems).items():
            if name in found:
                problems.append(Problem(uri, f"has the name of {found[name].image_uri}"))
            elif name not in maps:
                problems.append(Problem(uri, f"has no class map in {maps_folder}/"))
            else:
                found[name] = AnnotatedImage(
                    name=name,
                    split=split,
                    image_uri=uri,
                    instances_uri=None,
                    semantic_uri=maps.pop(name),
                    attributes={},
                    format="nnunet",
                )
        if maps:
            what = f"holds {plural(len(maps), 'map')} of which there is no image in {folder}/"
            notes.append(Problem(place.join(maps_folder), f"{what}: {first_few(sorted(maps))}"))
    splits = hold_out({name: image.split for name, image in found.items()}, val_fraction)
    images = tuple(replace(found[name], split=split) for name, split in splits.items())
    return AnnotatedData(place.uri, "nnunet", images, classes, void, tuple(problems), tuple(notes))


def _images(place: Place, folder: str, problems: list[Problem]) -> dict[str, str]:
    """Name, without the channel's number, → URI.

    Raises:
        DataError: channels are in files of their own, or no file is an image that is read.
    """
    uri = place.join(folder)
    files = by_stem(uri, problems)
    if not files and not problems:
        names = place.below(folder).names
        what = f"such as {names[0]}" if names else "since it is empty"
        raise DataError(
            f"{uri} holds no image that is read, {what}; save slices as PNG or TIFF (nnU-Net's "
            "file_ending .png or .tif)"
        )
    found: dict[str, str] = {}
    for file, image in files.items():
        match = _CHANNEL.fullmatch(file)
        if match is None:
            problems.append(Problem(image, "does not end in the number of a channel, as _0000"))
        elif match[2] != "0000":
            raise DataError(
                f"{image} is a channel of an image in several files; join those of each image into "
                f"one TIFF, {match[1]}_0000.tif: an array of channels, height and width"
            )
        else:
            found[match[1]] = image
    return found


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
    return classes, void[0] if void else VOID


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
