"""Predicted objects drawn over their images, many in one picture."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.drawing import Picture, draw, frame, grid, legend, outline
from pipeline.errors import DatasetError, MissingError, RejectError
from pipeline.images.windows import LevelChoice, WindowedImage, open_windows, read_whole
from pipeline.records import Box, ObjectMask, Pixels
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_window
from pipeline.tables.whole_objects import WHOLE_COLUMNS, whole_object
from pipeline.wording import plural

_LARGE = 4096  # pixels of a side, from which only the middle of an image is drawn
_MIDDLE = 1024
_SEEN = 10  # pixels in the picture of an object's diameter, so that its outline leaves some of it


def draw_sheet(dataset: OutputDataset, images: int, side: int) -> Picture:
    """A contact sheet of up to so many images, spread evenly over the dataset.

    Raises:
        DatasetError: no image is done yet.
        StorageError: the store does not answer; an image that is gone is told in its place.
    """
    dataset = dataset.at_one_moment()
    columns = ["image_id", "uri", "height", "width", "n_objects", "shard"]
    table = dataset.read("images", columns).sort_by("uri")
    if table.num_rows == 0:
        raise DatasetError(f"{dataset.uri} holds no image yet")
    picks = np.unique(np.linspace(0, table.num_rows - 1, images).round().astype(int))
    rows = table.take(picks).to_pylist()
    cells = [_cell(dataset, row, side) for row in rows]
    across = int(np.ceil(np.sqrt(len(cells))))
    sheet = grid(cells, across)
    return np.vstack([sheet, legend(dataset.classes, sheet.shape[1])])


def _diameter(dataset: OutputDataset, row: dict[str, Any]) -> float | None:
    """Pixels, of the mean object of an image that has any."""
    columns = ["n_objects", "object_area"]
    counts = dataset.read_image("counts", columns, row["image_id"], row["shard"])
    objects, area = (pc.sum(counts[name]).as_py() for name in columns)
    return 2 * math.sqrt(area / objects / math.pi) if objects else None


def _cell(dataset: OutputDataset, row: dict[str, Any], side: int) -> Picture:
    name, size = storage.name_of(row["uri"]), (row["height"], row["width"])
    try:
        image = _open(row["uri"], dataset.spec.settings, size)
        if image.shape[:2] != size:
            return _placeholder(side, f"{name}: changed")
        diameter = _diameter(dataset, row)
        box = _shown(*size, math.inf if diameter is None else side * max(1.0, diameter / _SEEN))
        picture = _picture(dataset, row, image.read(box), box, side)
    except MissingError:
        return _placeholder(side, f"{name}: gone")
    except RejectError:  # it could be read once
        return _placeholder(side, f"{name}: changed")
    middle = "" if box == (0, 0, *size) else ", its middle"
    return frame(picture, side, f"{name}: {plural(row['n_objects'], 'object')}{middle}")


def _placeholder(side: int, caption: str) -> Picture:
    """In the place of an image that is no longer what the dataset says of it."""
    return frame(np.zeros((side, side, 3), np.uint8), side, caption)


def _picture(
    dataset: OutputDataset, row: dict[str, Any], pixels: Pixels, box: Box, side: int
) -> Picture:
    """What is shown of an image, with its objects."""
    where = pc.scalar(True)
    for low, high, first, last in (("y0", "y1", box.y0, box.y1), ("x0", "x1", box.x0, box.x1)):
        where = where & (pc.field(low) < last) & (pc.field(high) > first)
    its = (row["image_id"], row["shard"])
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    semantic, instances = decode_window(
        dataset.read_image("masks", columns, *its, where).to_pylist(), box
    )
    scale = side / max(semantic.shape)
    if not dataset.spec.overlapping:
        return draw(pixels, semantic, instances, dataset.classes, scale)
    picture = draw(pixels, semantic, np.zeros_like(instances), dataset.classes, scale)
    columns = ["object_id", "class_id", *WHOLE_COLUMNS]
    rows = dataset.read_image("objects", columns, *its, where).to_pylist()
    objects = [_moved(whole_object(one), box) for one in rows]
    outline(picture, objects, dataset.classes, scale)
    return picture


def _moved(one: ObjectMask, box: Box) -> ObjectMask:
    """From the image to what is shown of it."""
    y0, x0, y1, x1 = one.box
    return replace(one, box=Box(y0 - box.y0, x0 - box.x0, y1 - box.y0, x1 - box.x0))


def _shown(height: int, width: int, most: float) -> Box:
    """The whole of an image, or the middle of one whose objects would be too small to see.

    Args:
        most: pixels of a side in which they can be seen.
    """
    longest = max(height, width)
    shown = int(min(most, longest if longest <= _LARGE else _MIDDLE))
    y, x = max((height - shown) // 2, 0), max((width - shown) // 2, 0)
    return Box(y, x, min(y + shown, height), min(x + shown, width))


def _open(uri: str, settings: dict[str, Any], size: tuple[int, int]) -> WindowedImage:
    """As it was read for the prediction, whatever the limits were then."""
    reader = ReaderSettings(max_pixels=size[0] * size[1], allow_misnamed=True)
    choice = LevelChoice(settings.get("level", 0), settings.get("mpp"))
    return open_windows(uri, choice) or read_whole(uri, -1, reader)
