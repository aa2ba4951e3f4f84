"""GeoJSON for QuPath and GIS tools: a polygon an object, along the edges of its pixels.

Coordinates are x, y in pixels of the image, the first pixel spanning 0 to 1.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from pipeline import storage
from pipeline.exporting.base import Chosen, object_batches
from pipeline.predicting.merging import decode_runs
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

_COLUMNS = ["object_id", "class_name", "score", "y0", "x0", "y1", "x1", "area", "rle"]


def export_image(dataset: OutputDataset, image: Chosen, folder: str) -> None:
    """`<name>.geojson`, a FeatureCollection."""
    uri = storage.join(folder, f"{image.name}.geojson")

    def write(snapshot: Snapshot) -> None:
        with storage.open_output(uri) as file:
            file.write(b'{"type": "FeatureCollection", "features": [\n')
            before = b""
            for feature in _features(snapshot, image):
                file.write(before + json.dumps(feature).encode())
                before = b",\n"
            file.write(b"\n]}\n")

    dataset.consistent(write)


def _features(snapshot: Snapshot, image: Chosen) -> Iterator[dict[str, Any]]:
    for batch in object_batches(snapshot, image, _COLUMNS):
        for row in batch.to_pylist():
            polygon = outline(runs_in_image(row))
            measured = {"score": round(row["score"], 4), "area": row["area"]}
            yield {
                "type": "Feature",
                "id": row["object_id"],
                "geometry": json.loads(shapely.to_geojson(polygon)),
                "properties": {
                    "objectType": "detection",  # what QuPath shows it as
                    "classification": {"name": row["class_name"]},
                    **measured,
                    "measurements": measured,  # the only numbers that QuPath looks at
                },
            }


def runs_in_image(row: dict[str, Any]) -> NDArray[np.int32]:
    """(R, 3) runs of an object's pixels: x, y0, y1."""
    return decode_runs(row["rle"], (row["y0"], row["x0"], row["y1"], row["x1"]))


def outline(runs: NDArray[np.int32]) -> shapely.Geometry:
    """The area that the pixels of (R, 3) runs cover."""
    x, y0, y1 = runs.T
    return shapely.union_all(shapely.box(x, y0, x + 1, y1)).simplify(0)
