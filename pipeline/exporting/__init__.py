"""An output dataset → files that other tools open. A format is one module and one line in FORMATS.

What is read of an image are batches of its objects and one row of tiles at a time, so that its size
does not matter.
"""

from collections.abc import Callable

from pipeline.exporting import coco, geojson, ome_zarr, tiff
from pipeline.exporting.base import Chosen, choose_images
from pipeline.exporting.target import claim_target
from pipeline.tables.dataset import OutputDataset

__all__ = ["FORMATS", "WHOLE", "Chosen", "choose_images", "claim_target"]

FORMATS: dict[str, Callable[[OutputDataset, Chosen, str], None]] = {
    "ome-zarr": ome_zarr.export_image,
    "geojson": geojson.export_image,
    "tiff": tiff.export_image,
}
"""Format → what writes one image into a folder."""

WHOLE: dict[str, Callable[[OutputDataset, list[Chosen], str], None]] = {"coco": coco.export_images}
"""Format → what writes all images into one file of a folder."""
