"""The classes of Pascal VOC itself, whose folders hold no list of them.

See http://host.robots.ox.ac.uk/pascal/VOC/voc2012: ids are the places of the names, 255 is void.
"""

from pipeline.labels.base import Place
from pipeline.records import Classes, ClassSpec

_NAMES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
          "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
          "train", "tvmonitor")  # fmt: skip
CLASSES: Classes = (
    ClassSpec(id=0, name="background", kind="background"),
    *(ClassSpec(id=i, name=name, kind="stuff") for i, name in enumerate(_NAMES, start=1)),
)


def is_pascal(place: Place) -> bool:
    """It has a list of images for each of its classes, which data in its layout seldom has."""
    if "ImageSets" not in place.names:
        return False
    lists = set(place.below("ImageSets", "Main").names)
    return {f"{name}_train.txt" for name in _NAMES} <= lists
