"""Rows of the objects table → objects whole, as they are where they may overlap."""

from collections.abc import Mapping
from typing import Any

from pycocotools import mask as coco_mask

from pipeline.records import Box, ObjectMask

WHOLE_COLUMNS = ("y0", "x0", "y1", "x1", "rle")
"""What it takes, beside the object's number and class."""


def whole_object(row: Mapping[str, Any]) -> ObjectMask:
    """With the pixels that it shares with others."""
    box = Box(row["y0"], row["x0"], row["y1"], row["x1"])
    size = [box.y1 - box.y0, box.x1 - box.x0]
    mask = coco_mask.decode({"size": size, "counts": row["rle"].encode()}).astype(bool)
    return ObjectMask.pack(row["object_id"], row["class_id"], box, mask)
