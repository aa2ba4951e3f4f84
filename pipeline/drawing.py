"""Labels drawn over their images, and pictures laid side by side.

Legend: H height, W width.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import NormalizeSettings
from pipeline.images.normalize import measure_range, normalize
from pipeline.records import Classes, ObjectMask, Pixels, SemanticMap, reported

Picture = NDArray[np.uint8]
"""(H, W, 3) red, green, blue."""

COLOURS = (
    (255, 209, 64), (64, 224, 255), (255, 96, 160), (140, 255, 96), (200, 140, 255),
    (255, 128, 0), (50, 110, 255), (230, 30, 40), (0, 160, 80), (165, 100, 40),
    (255, 190, 205), (0, 145, 150), (175, 0, 210), (150, 150, 0), (170, 255, 215),
    (125, 70, 135), (255, 250, 200), (85, 85, 190), (190, 210, 255), (170, 40, 80),
)  # fmt: skip
"""Red, green, blue of the reported classes, in the order of their ids, over and over."""
WHITE, PAPER = (235, 235, 235), 24
CAPTION, GAP = 22, 6
"""Pixels below a cell for its caption, and between the cells of a grid."""
_TINT = 0.25  # of a stuff class's colour over its pixels
_LINE, _SWATCH = 20, 12  # pixels a line of a legend, and of a colour in it


def class_colours(classes: Classes) -> dict[int, tuple[int, int, int]]:
    """Class id → its colour, of the reported classes."""
    return {spec.id: COLOURS[i % len(COLOURS)] for i, spec in enumerate(reported(classes))}


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
    picture = scaled(pixels, scale)
    size = (picture.shape[1], picture.shape[0])
    classmap = cv2.resize(semantic, size, interpolation=cv2.INTER_NEAREST)
    ids = cv2.resize(instances.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    edges = cv2.dilate(ids, np.ones((3, 3), np.uint8)) != ids
    edges |= (cv2.erode(ids, np.ones((3, 3), np.uint8)) != ids) & (ids > 0)
    colours = class_colours(classes)
    for spec in reported(classes):
        colour, mine = np.array(colours[spec.id]), classmap == spec.id
        if spec.kind == "stuff":
            picture[mine] = (1 - _TINT) * picture[mine] + _TINT * colour
        else:
            # An outline lies on the object and around it, so that touching ones stay apart.
            around = cv2.dilate(mine.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            picture[edges & (mine | around & (ids == 0))] = colour
    return picture.astype(np.uint8)


def outline(
    picture: Picture, objects: Iterable[ObjectMask], classes: Classes, scale: float
) -> None:
    """Draw the whole outlines of objects that overlap over a picture at a scale, in place."""
    colours = class_colours(classes)
    for one in objects:
        mask = np.pad(one.mask().astype(np.uint8), 1)  # contours run along the outermost pixels
        corner = (one.box.x0 - 1, one.box.y0 - 1)
        found = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=corner)[0]
        for points in found:
            placed = ((points + 0.5) * scale - 0.5).round().astype(np.int32)
            cv2.polylines(picture, [placed], True, colours[one.class_id], 1)


def scaled(pixels: Pixels, scale: float) -> Picture:
    """The image alone, as `draw` shows it."""
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(visible(pixels), size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def centred(picture: Picture, height: int, width: int) -> Picture:
    """The picture in the middle of a cell that is at least as large."""
    cell = np.full((height, width, 3), PAPER, np.uint8)
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell


def frame(picture: Picture, side: int, caption: str) -> Picture:
    """A picture of at most `side` pixels in the middle of a square cell, a caption below it."""
    cell = np.vstack([centred(picture, side, side), np.full((CAPTION, side, 3), PAPER, np.uint8)])
    write(cell, caption, 4, side + 15, WHITE)
    return cell


def visible(pixels: Pixels) -> Picture:
    """(H, W, C) of any type → 8-bit colour, by the same stretch as the network's."""
    channels = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, axis=-1)
    values = normalize(channels, measure_range(channels, NormalizeSettings()))
    return (values.clip(0, 1) * 255).astype(np.uint8)


def grid(cells: Sequence[Picture], across: int) -> Picture:
    """Cells of equal size in rows of so many."""
    height, width = cells[0].shape[:2]
    down = -(-len(cells) // across)
    sheet = np.full((down * (height + GAP) + GAP, across * (width + GAP) + GAP, 3), PAPER, np.uint8)
    for i, cell in enumerate(cells):
        y = GAP + (i // across) * (height + GAP)
        x = GAP + (i % across) * (width + GAP)
        sheet[y : y + height, x : x + width] = cell
    return sheet


def legend(classes: Classes, width: int) -> Picture:
    """A strip with the reported classes and their colours, in as many lines as that takes."""
    colours = class_colours(classes)
    places, x, y = [], GAP, 0
    for spec in reported(classes):
        needed = _SWATCH + 6 + text_width(spec.name) + 16
        if x > GAP and x + needed > width:
            x, y = GAP, y + _LINE
        places.append((x, y))
        x += needed
    strip = np.full((y + _LINE + 8, width, 3), PAPER, np.uint8)
    for spec, (x, y) in zip(reported(classes), places, strict=True):
        strip[y + 8 : y + 8 + _SWATCH, x : x + _SWATCH] = colours[spec.id]
        write(strip, spec.name, x + _SWATCH + 6, y + 19, WHITE)
    return strip


def text_width(text: str) -> int:
    """Pixels that `write` takes for it."""
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0])


def write(picture: Picture, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Text with its left end and baseline at x and y; in place."""
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
