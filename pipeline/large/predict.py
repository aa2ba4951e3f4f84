"""A window of a large image → the method's maps of a part."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.normalize import IntensityRange, normalize
from pipeline.images.windows import WindowedImage
from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep
from pipeline.methods.base import Method
from pipeline.overlaps import shared_windows
from pipeline.predicting.predictor import Predictor
from pipeline.predicting.regions import Cutting
from pipeline.records import Box, Maps, Pixels


def read_window(
    image: WindowedImage, core: Box, cutting: Cutting
) -> tuple[Pixels, tuple[int, int]]:
    """The pixels that the maps of a core depend on, and where they begin."""
    height, width, _ = image.shape
    box = cutting.window(core, height, width)
    return image.read(box), (box.y0, box.x0)


def predict_part(
    pixels: Pixels,
    corner: tuple[int, int],
    core: Box,
    size: tuple[int, int],
    bounds: IntensityRange,
    predictor: Predictor,
) -> Maps:
    """The maps of a core, (H, W) each: those that the whole image has there.

    Args:
        pixels: of `read_window`, beginning at `corner`.
        size: height and width of the image.
    """
    prepared = normalize(predictor.fit(pixels), bounds)
    return predictor.predict_core(prepared, corner, core, size)


def keep_maps(keep: Keep, part: int, maps: Maps, method: Method) -> None:
    """Done once this returns."""
    keep.write("maps", part, maps_table(maps))
    keep.write_scale(method.scale(maps), part)


def maps_table(maps: Maps) -> pa.Table:
    """Maps as a row of bytes."""
    return pa.table({name: [plane.tobytes()] for name, plane in maps.items()})


def read_maps(keep: Keep, grid: Grid, box: Box) -> dict[str, NDArray[np.uint8]]:
    """The maps of a box, put together from the parts that it touches."""
    shape = (box.y1 - box.y0, box.x1 - box.x0)
    whole: dict[str, NDArray[np.uint8]] = {}
    for part in grid.parts_in(box):
        core = grid.core(part)
        there, here = shared_windows(core, box)
        table = keep.read("maps", part)
        for name in table.column_names:
            buffer = table[name][0].as_buffer()
            plane = np.frombuffer(buffer, np.uint8).reshape(core.y1 - core.y0, core.x1 - core.x0)
            target = whole.setdefault(name, np.empty(shape, np.uint8))
            target[here] = plane[there]
    return whole
