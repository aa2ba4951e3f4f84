"""A pyramidal OME-Zarr (0.4) label image, which napari and QuPath open.

Levels are every second pixel of the one before: labels have no mean.
"""

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline import storage
from pipeline.exporting.base import Chosen, label_bands
from pipeline.images.windows.zarr import DoorStore
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

_CHUNK = 512
_SMALLEST = 256  # pixels of the last level's longer side, about


def export_image(dataset: OutputDataset, image: Chosen, folder: str) -> None:
    """`<name>.zarr`."""
    uri = storage.join(folder, f"{image.name}.zarr")
    levels = 1
    while max(image.height, image.width) >> (levels - 1) > _SMALLEST:
        levels += 1

    def write(snapshot: Snapshot) -> None:
        storage.remove_folder(uri)
        group = zarr.create_group(DoorStore(uri, read_only=False), zarr_format=2)
        arrays = [
            group.create_array(
                str(level),
                shape=(-(-image.height // 2**level), -(-image.width // 2**level)),
                dtype=np.int32,
                chunks=(_CHUNK, _CHUNK),
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
            for level in range(levels)
        ]
        for top, band in label_bands(snapshot, image):
            _write_band(arrays, top, band)
        # Last: a folder without it is no image.
        group.attrs.update(_description(image, levels))

    dataset.consistent(write)


def _write_band(arrays: list[Any], top: int, band: NDArray[np.int32]) -> None:
    for level, array in enumerate(arrays):
        step = 2**level
        first = -top % step
        part = band[first::step, ::step]
        y = (top + first) // step
        array[y : y + len(part)] = part


def _description(image: Chosen, levels: int) -> dict[str, Any]:
    """The metadata that OME-NGFF 0.4 asks of a multiscale image that is a label."""
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [2.0**level] * 2}],
        }
        for level in range(levels)
    ]
    return {
        "multiscales": [
            {
                "version": "0.4",
                "name": image.name,
                "axes": [{"name": axis, "type": "space"} for axis in "yx"],
                "datasets": datasets,
                "type": "nearest",
            }
        ],
        "image-label": {"version": "0.4", "source": {"image": image.uri}},
    }
