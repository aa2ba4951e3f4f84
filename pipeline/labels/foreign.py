"""Annotations that no format here reads: what they are, and how they become ones that are read."""

import re
from collections.abc import Iterator

from pipeline import storage
from pipeline.labels.base import Place
from pipeline.labels.files import is_image

_LOOKED_INTO = 32  # folders, so that a bucket is not listed to tell what is in it

_AS_FILES = "save each image and each map of object ids as PNG or TIFF, in images/ and labels/"
_ADVICE = (
    (r"/(leftImg8bit|gtFine)_\w+", "put leftImg8bit/ and gtFine/ of it side by side"),
    (
        r"/SegmentationClass",
        "put the images of its maps into JPEGImages/ beside it (CVAT: Save images)",
    ),
    (r"/\d\d_(GT|ST)", "name each image and its SEG/man_seg*.tif in manifest.csv"),
    (r"_seg\.npy", "let Cellpose save the masks in it as PNG or TIFF, beside the images"),
    (r"\.(npy|npz|h5|hdf5|mat)", _AS_FILES),
    (
        r"\.(nii|nii\.gz|nrrd|mha)",
        "save each slice of a volume as PNG or TIFF, of images and labels alike",
    ),
    (r"\.geojson", "name it as its image is named, and put both into one folder"),
    (r"(\.roi|roi\w*\.zip)", "let ImageJ draw the ROIs as label images, TIFF files in labels/"),
    (r"\.xml", "draw its outlines as label images in labels/, or export them as COCO"),
    (r"\.json", "export as COCO, which is one JSON file for many images, or convert it to that"),
    (
        r"/labels/([^/]+/)?[^/]+\.txt",
        "put the images of YOLO's text files into images/ beside labels/",
    ),
    (r"\.gif", "save images and labels as PNG or TIFF"),
)
"""How a file's URI ends → what to do with such files; the first that fits."""


def advice(place: Place) -> str:
    """A file that lies there and what to do with it; empty where nothing is known."""
    uris = [place.join(name) for name in place.names if not name.startswith(".")]
    for end, what in _ADVICE:
        pattern = re.compile(end + "$", re.IGNORECASE)
        found = next(filter(pattern.search, uris), None)
        if found:
            return f"{found}: {what}"
    return ""


def folders_below(place: Place) -> Iterator[Place]:
    """The place and some of the folders below it, the nearest first."""
    waiting, looked = [place], 0
    while waiting and looked < _LOOKED_INTO:
        here = waiting.pop(0)
        looked += 1
        yield here
        folders = [n for n in here.names if not (is_image(n) or n.startswith(".") or _is_file(n))]
        waiting += [here.below(n) for n in folders[: _LOOKED_INTO - looked]]


def _is_file(name: str) -> bool:
    return "." in storage.name_of(name)[-8:]
