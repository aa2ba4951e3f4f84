"""Semantic and instance maps ⇄ rows of the masks table: PNG tiles that need no other software.

Each tile numbers its own objects from 1, in 16 bits, and names them in `object_ids`; a tile with
more objects than that is cut in four. In an image of one tile the numbers are the object ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DatasetError
from pipeline.overlaps import shared_windows
from pipeline.records import Box, InstanceMap, SemanticMap

TILE = 2048
"""Side of a tile, in pixels."""

_MOST_OBJECTS = 2**16 - 1  # that a 16-bit label can name, beside 0

_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def encode_tiles(
    semantic: SemanticMap, instances: InstanceMap, n: int, corner: tuple[int, int] = (0, 0)
) -> Iterator[dict[str, Any]]:
    """Rows of the masks table, without the columns that name the image and the shard.

    Args:
        semantic: (H, W), as `instances`, of an image or of a part of it.
        n: objects are numbered from 1 to this.
        corner: where in the image the part begins.
    """
    height, width = semantic.shape
    for y0 in range(0, height, TILE):
        for x0 in range(0, width, TILE):
            box = Box(y0, x0, min(y0 + TILE, height), min(x0 + TILE, width))
            for row in _encode_tile(semantic, instances, n, box):
                y, x = corner
                moved = Box(row["y0"] + y, row["x0"] + x, row["y1"] + y, row["x1"] + x)
                yield row | moved._asdict()


def decode_tiles(
    rows: Iterable[Mapping[str, Any]], height: int, width: int
) -> tuple[SemanticMap, InstanceMap]:
    """The maps of one image from its rows of the masks table."""
    return decode_window(rows, Box(0, 0, height, width))


def decode_window(rows: Iterable[Mapping[str, Any]], box: Box) -> tuple[SemanticMap, InstanceMap]:
    """The maps of a box of one image from the rows of the masks table that touch it."""
    shape = (box.y1 - box.y0, box.x1 - box.x0)
    semantic, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.int32)
    for row in rows:
        classes, labels, object_ids = decode_tile(row)
        tile = Box(row["y0"], row["x0"], row["y1"], row["x1"])
        there, here = shared_windows(tile, box)
        semantic[here] = classes[there]
        instances[here] = np.append(0, object_ids).astype(np.int32)[labels[there]]
    return semantic, instances


def decode_tile(
    row: Mapping[str, Any],
) -> tuple[SemanticMap, NDArray[np.integer[Any]], NDArray[np.int64]]:
    """The semantic map of a tile, its labels, and the object of each label from 1 on.

    Raises:
        DatasetError: it holds something else than PNGs.
    """
    semantic = _from_png(row["semantic"]).astype(np.uint8, copy=False)
    return semantic, _from_png(row["instances"]), np.array(row["object_ids"], np.int64)


def repaint_tile(row: Mapping[str, Any], classes: Mapping[int, int]) -> dict[str, Any]:
    """A row of the masks table with the pixels of some of its objects of another class.

    Args:
        classes: object, as the row names it → class id.
    """
    semantic, labels = _from_png(row["semantic"]), _from_png(row["instances"])
    given = np.array([-1, *(classes.get(name, -1) for name in row["object_ids"])], np.int16)[labels]
    return {**row, "semantic": _to_png(np.where(given < 0, semantic, given).astype(np.uint8))}


def keep_in_tile(row: Mapping[str, Any], keep: NDArray[np.bool_]) -> dict[str, Any]:
    """A row of the masks table with those of its N objects that are to be kept, (N,)."""
    numbers = np.zeros(len(keep) + 1, np.uint16)
    numbers[1:][keep] = np.arange(1, keep.sum() + 1)
    names = np.array(row["object_ids"], np.int64)[keep].tolist()
    labels = _to_png(numbers[_from_png(row["instances"])])
    return {**row, "instances": labels, "object_ids": names}


def _encode_tile(
    semantic: SemanticMap, instances: InstanceMap, n: int, box: Box
) -> Iterator[dict[str, Any]]:
    window = (slice(box.y0, box.y1), slice(box.x0, box.x1))
    tile = instances[window]
    object_ids: NDArray[np.integer[Any]]
    labels: NDArray[np.integer[Any]]
    if tile.shape == instances.shape:
        object_ids, labels = np.arange(1, n + 1), tile
    else:
        present = np.unique(tile)
        object_ids = present[present > 0]
        labels = np.where(tile > 0, np.searchsorted(object_ids, tile) + 1, 0)
    if len(object_ids) > _MOST_OBJECTS:
        for quarter in _quarters(box):
            yield from _encode_tile(semantic, instances, n, quarter)
        return
    yield {
        **box._asdict(),
        "semantic": _to_png(semantic[window]),
        "instances": _to_png(labels.astype(np.uint16)),
        "object_ids": object_ids.tolist(),
    }


def _quarters(box: Box) -> Iterator[Box]:
    y, x = (box.y0 + box.y1) // 2, (box.x0 + box.x1) // 2
    for y0, y1 in ((box.y0, y), (y, box.y1)):
        for x0, x1 in ((box.x0, x), (x, box.x1)):
            if y0 < y1 and x0 < x1:
                yield Box(y0, x0, y1, x1)


def _to_png(image: NDArray[np.integer[Any]]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image), _FAST)[1].tobytes()


def _from_png(data: bytes) -> NDArray[np.integer[Any]]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DatasetError("the masks table holds an image that is not a PNG")
    return image  # type: ignore[return-value]  # PNG knows no floats
