"""A tiled label TIFF: 32 bits, 0 for no object, otherwise the object's id."""

from collections.abc import Iterator

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline import storage
from pipeline.exporting.base import Chosen, label_bands
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

_TILE = 256


def export_image(dataset: OutputDataset, image: Chosen, folder: str) -> None:
    """`<name>.tif`."""
    uri = storage.join(folder, f"{image.name}.tif")

    def write(snapshot: Snapshot) -> None:
        with storage.open_file(uri) as path:
            tifffile.imwrite(
                path,
                _tiles(label_bands(snapshot, image), image),
                shape=(image.height, image.width),
                dtype=np.uint32,
                tile=(_TILE, _TILE),
                compression="zlib",
                bigtiff=image.height * image.width > 1 << 28,
                photometric="minisblack",
            )

    dataset.consistent(write)


def _tiles(
    bands: Iterator[tuple[int, NDArray[np.int32]]], image: Chosen
) -> Iterator[NDArray[np.uint32]]:
    """Row by row; those at the right and below are as large as there are pixels."""
    rest = np.zeros((0, image.width), np.uint32)
    for _, band in bands:
        rest = np.concatenate([rest, band.astype(np.uint32)])
        whole = len(rest) - len(rest) % _TILE
        yield from _row_of_tiles(rest[:whole])
        rest = rest[whole:]
    yield from _row_of_tiles(rest)


def _row_of_tiles(rows: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    for y in range(0, len(rows), _TILE):
        for x in range(0, rows.shape[1], _TILE):
            yield np.ascontiguousarray(rows[y : y + _TILE, x : x + _TILE])
