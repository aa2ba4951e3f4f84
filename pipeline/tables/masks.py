"""Semantic and instance maps ⇄ rows of the masks table: PNG tiles that need no other software.

A tile holds at most 65,535 objects' worth of 16-bit labels: each tile numbers its own objects from
1 and names them in `object_ids`. In an image of one tile the numbers are the object ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DatasetError
from pipeline.records import Box, InstanceMap, Segmentation, SemanticMap

TILE = 2048
"""Side of a tile, in pixels: at one object in 64 pixels, its labels still fit in 16 bits."""

_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def encode_tiles(segmentation: Segmentation) -> Iterator[dict[str, Any]]:
    """Rows of the masks table, without the columns that name the image and the shard."""
    height, width = segmentation.semantic.shape
    for y0 in range(0, height, TILE):
        for x0 in range(0, width, TILE):
            box = Box(y0, x0, min(y0 + TILE, height), min(x0 + TILE, width))
            yield _encode_tile(segmentation, box)


def decode_tiles(
    rows: Iterable[Mapping[str, Any]], height: int, width: int
) -> tuple[SemanticMap, InstanceMap]:
    """The maps of one image from its rows of the masks table."""
    semantic = np.zeros((height, width), np.uint8)
    instances = np.zeros((height, width), np.int32)
    for row in rows:
        window = (slice(row["y0"], row["y1"]), slice(row["x0"], row["x1"]))
        semantic[window] = _from_png(row["semantic"])
        names = np.array([0, *row["object_ids"]], np.int32)
        instances[window] = names[_from_png(row["instances"])]
    return semantic, instances


def _encode_tile(segmentation: Segmentation, box: Box) -> dict[str, Any]:
    window = (slice(box.y0, box.y1), slice(box.x0, box.x1))
    tile = segmentation.instances[window]
    if tile.shape == segmentation.instances.shape and len(segmentation.class_ids) < 2**16:
        object_ids, labels = np.arange(1, len(segmentation.class_ids) + 1), tile
    else:
        object_ids = np.unique(tile)
        object_ids = object_ids[object_ids > 0]
        labels = np.where(tile > 0, np.searchsorted(object_ids, tile) + 1, 0)
    if len(object_ids) >= 2**16:
        raise ValueError(f"{len(object_ids)} objects in a tile of {TILE} x {TILE} pixels")
    return {
        **box._asdict(),
        "semantic": _to_png(segmentation.semantic[window]),
        "instances": _to_png(labels.astype(np.uint16)),
        "object_ids": object_ids.tolist(),
    }


def _to_png(image: NDArray[np.generic]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image), _FAST)[1].tobytes()


def _from_png(data: bytes) -> NDArray[np.integer[Any]]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DatasetError("the masks table holds an image that is not a PNG")
    return image  # type: ignore[return-value]  # PNG knows no floats
