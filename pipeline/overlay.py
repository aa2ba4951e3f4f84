"""Predicted objects drawn over their images, many in one picture."""

import numpy as np
import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.drawing import Picture, draw, frame, grid, legend
from pipeline.errors import DatasetError
from pipeline.images.reader import decode_image
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles


def draw_sheet(dataset: OutputDataset, images: int, side: int) -> Picture:
    """A contact sheet of up to so many images, spread evenly over the dataset.

    Raises:
        DatasetError: no image is done yet.
        TesseraError: an image can't be read again from where it was.
    """
    columns = ["image_id", "uri", "height", "width", "n_objects"]
    table = dataset.read("images", columns).sort_by("uri")
    if table.num_rows == 0:
        raise DatasetError(f"{dataset.uri} holds no image yet")
    picks = np.unique(np.linspace(0, table.num_rows - 1, images).round().astype(int))
    cells = [_cell(dataset, row, side) for row in table.take(picks).to_pylist()]
    across = int(np.ceil(np.sqrt(len(cells))))
    sheet = grid(cells, across)
    return np.vstack([sheet, legend(dataset.classes, sheet.shape[1])])


def _cell(dataset: OutputDataset, row: dict[str, object], side: int) -> Picture:
    uri, height, width = str(row["uri"]), int(str(row["height"])), int(str(row["width"]))
    pixels = decode_image(storage.read_bytes(uri), uri, ReaderSettings(allow_misnamed=True))
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    tiles = dataset.read("masks", columns, pc.field("image_id") == row["image_id"]).to_pylist()
    semantic, instances = decode_tiles(tiles, height, width)
    scale = side / max(height, width)
    picture = draw(pixels, semantic, instances, dataset.classes, scale)
    return frame(picture, side, f"{storage.name_of(uri)}: {row['n_objects']} objects")
