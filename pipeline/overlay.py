"""Predicted objects drawn over their images, many in one picture.

Legend: H height, W width.
"""

import cv2
import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import NormalizeSettings, ReaderSettings
from pipeline.errors import DatasetError
from pipeline.images.normalize import measure_range, normalize
from pipeline.images.reader import decode_image
from pipeline.records import Classes, Pixels, SemanticMap, reported
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles

Picture = NDArray[np.uint8]
"""(H, W, 3) red, green, blue."""

COLOURS = ((255, 209, 64), (64, 224, 255), (255, 96, 160), (140, 255, 96), (200, 140, 255))
"""Red, green, blue of the reported classes, in the order of their ids, over and over."""
_TINT = 0.25  # of a stuff class's colour over its pixels
CAPTION, GAP = 22, 6  # pixels
WHITE, PAPER = (235, 235, 235), 24


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


def to_png(picture: Picture) -> bytes:
    """The bytes of a PNG file."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def draw(
    pixels: Pixels,
    semantic: SemanticMap,
    instances: NDArray[np.int32],
    classes: Classes,
    scale: float,
) -> Picture:
    """One image at a scale, stuff tinted and objects outlined in their class's colour."""
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    picture = cv2.resize(_visible(pixels), size, interpolation=cv2.INTER_AREA)
    classmap = cv2.resize(semantic, size, interpolation=cv2.INTER_NEAREST)
    ids = cv2.resize(instances.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    edges = cv2.dilate(ids, np.ones((3, 3), np.uint8)) != ids
    edges |= (cv2.erode(ids, np.ones((3, 3), np.uint8)) != ids) & (ids > 0)
    for i, spec in enumerate(reported(classes)):
        colour, mine = np.array(COLOURS[i % len(COLOURS)]), classmap == spec.id
        if spec.kind == "stuff":
            picture[mine] = (1 - _TINT) * picture[mine] + _TINT * colour
        else:
            # An outline lies on the object and around it, so that touching ones stay apart.
            around = cv2.dilate(mine.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            picture[edges & (mine | around & (ids == 0))] = colour
    return picture.astype(np.uint8)


def _visible(pixels: Pixels) -> Picture:
    """(H, W, C) of any type → 8-bit colour, by the same stretch as the network's."""
    channels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    values = normalize(channels, measure_range(channels, NormalizeSettings()))
    return (values.clip(0, 1) * 255).astype(np.uint8)


def _cell(dataset: OutputDataset, row: dict[str, object], side: int) -> Picture:
    uri, height, width = str(row["uri"]), int(str(row["height"])), int(str(row["width"]))
    pixels = decode_image(storage.read_bytes(uri), uri, ReaderSettings(allow_misnamed=True))
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    tiles = dataset.read("masks", columns, pc.field("image_id") == row["image_id"]).to_pylist()
    semantic, instances = decode_tiles(tiles, height, width)
    scale = side / max(height, width)
    picture = draw(pixels, semantic, instances, dataset.classes, scale)
    return frame(picture, side, f"{storage.name_of(uri)}: {row['n_objects']} objects")


def frame(picture: Picture, side: int, caption: str) -> Picture:
    """A picture of at most `side` pixels in the middle of a square cell, a caption below it."""
    cell = np.full((side + CAPTION, side, 3), PAPER, np.uint8)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    write_text(cell, caption, 4, side + 15, WHITE)
    return cell


def grid(cells: list[Picture], across: int) -> Picture:
    """Cells of one size, side by side and below each other."""
    height, width = cells[0].shape[:2]
    down = -(-len(cells) // across)
    sheet = np.full((down * (height + GAP) + GAP, across * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for i, cell in enumerate(cells):
        y = GAP + (i // across) * (height + GAP)
        x = GAP + (i % across) * (width + GAP)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def legend(classes: Classes, width: int) -> Picture:
    """A strip with the reported classes' names in their colours."""
    strip = np.full((28, width, 3), PAPER, np.uint8)
    x = GAP
    for i, spec in enumerate(reported(classes)):
        write_text(strip, spec.name, x, 19, COLOURS[i % len(COLOURS)])
        x += 12 * len(spec.name) + 20
    return strip


def write_text(picture: Picture, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Draw small letters in place, their lower left corner at (x, y)."""
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
