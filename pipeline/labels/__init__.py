"""Annotations as people have them → images, classes and labels.

A format is a module here and a line in `FORMATS`. What a format knows of an image travels in its
`AnnotatedImage`, as text, so that any process can read it.
"""

from dataclasses import replace

from pipeline.config import VAL_FRACTION, LabelSettings
from pipeline.errors import DataError
from pipeline.images.reader import is_turned
from pipeline.labels import (
    cityscapes,
    coco,
    folder,
    foreign,
    manifest,
    masks,
    nnunet,
    outlines,
    semantic,
    voc,
)
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.files import decode_file, read_file
from pipeline.labels.unlabelled import unlabelled
from pipeline.records import AnnotatedImage, Classes, Label, Remark, Sample

__all__ = ["FORMATS", "AnnotatedData", "Format", "open_data", "read_label", "read_sample"]

FORMATS: dict[str, Format] = {
    "folder": folder.FORMAT,
    "masks": masks.FORMAT,
    "coco": coco.FORMAT,
    "outlines": outlines.FORMAT,
    "semantic": semantic.FORMAT,
    "voc": voc.FORMAT,
    "cityscapes": cityscapes.FORMAT,
    "nnunet": nnunet.FORMAT,
    "manifest": manifest.FORMAT,
}

TURNED = Remark("images that EXIF says to turn, whose pixels are taken as they are stored")


def open_data(
    uri: str, settings: LabelSettings | None = None, val_fraction: float = VAL_FRACTION
) -> AnnotatedData:
    """Find images, labels, classes and splits below a folder or prefix, or in a file.

    What is wrong with single images is in `AnnotatedData.problems`; `AnnotatedData.check` raises
    it.

    Raises:
        DataError: one line: it is of no known format, or can't be opened.
    """
    settings = settings or LabelSettings()
    place = Place.look(uri)
    name = _detect(place) if settings.format == "auto" else settings.format
    FORMATS[name].check_settings(name, settings)
    data = FORMATS[name].open(place, settings, val_fraction)
    if name == "manifest" or place.is_file:  # which name all that is meant
        return data
    return replace(data, notes=(*data.notes, *unlabelled(place, data)))


def read_sample(image: AnnotatedImage, classes: Classes, void: int) -> Sample:
    """Decode an image and its labels.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    data = read_file(image.image_uri)
    pixels = decode_file(data, image.image_uri)
    label = read_label(image, classes, void, pixels.shape[:2])
    if is_turned(data):
        label = replace(label, remarks=(*label.remarks, TURNED))
    return Sample(image.name, pixels, label)


def read_label(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None = None
) -> Label:
    """Decode an image's labels alone; `shape` (H, W) is what they must have, where known.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    return FORMATS[image.format].read(image, classes, void, shape)


def _detect(place: Place) -> str:
    if not place.names and not place.is_file:
        raise DataError(f"{place.uri} holds nothing: there is no such folder, or it is empty")
    fitting = [name for name, kind in FORMATS.items() if kind.fits(place)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{place.uri} could be of the formats {' and '.join(fitting)}; "
            f"say which with --labels.format"
        )
    raise DataError(f"{place.uri} holds annotations of no known format{_instead(place)}")


def _instead(place: Place) -> str:
    """What to do about it, as the rest of a sentence."""
    below = list(foreign.folders_below(place))
    for inside in below[1:]:
        fitting = next((name for name, kind in FORMATS.items() if kind.fits(inside)), None)
        if fitting:
            return f", but {inside.uri} does ({fitting}): give that"
    found = next(filter(None, map(foreign.advice, below)), None)
    if found:
        return f", but {found}"
    known = "; ".join(f"{name}: {kind.looks_for}" for name, kind in FORMATS.items())
    return (
        f". Looked for: {known}, which names the files of any other layout (and instances or "
        "semantic, and split)"
    )
