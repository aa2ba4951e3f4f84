"""COCO instances JSON, which pycocotools and most training code load: one file for all images."""

import json
from collections.abc import Callable, Iterator, Sequence
from posixpath import commonprefix
from typing import Any

from pipeline import storage
from pipeline.errors import DatasetError
from pipeline.exporting.base import Chosen, object_batches
from pipeline.exporting.geojson import runs_in_image
from pipeline.predicting.merging import encode_runs
from pipeline.records import thing_ids
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.snapshot import Snapshot

_MOST_PIXELS = (1 << 32) - 1  # pycocotools counts the pixels of an image in 32 bits
_COLUMNS = ["class_id", "score", "y0", "x0", "y1", "x1", "area", "rle"]


def export_images(dataset: OutputDataset, images: list[Chosen], folder: str) -> None:
    """`instances.json`; masks as compressed RLE over the whole image, as COCO has them.

    Raises:
        DatasetError: an image is too large for that.
    """
    for image in images:
        if image.height * image.width > _MOST_PIXELS:
            raise DatasetError(
                f"{image.uri} has {image.height} x {image.width} pixels, more than COCO can count; "
                "export it with --to geojson, ome-zarr or tiff, and others with --images"
            )

    def write(snapshot: Snapshot) -> None:
        with storage.open_output(storage.join(folder, "instances.json")) as file:
            write_json(file.write, dataset, images, snapshot)

    dataset.consistent(write)


def write_json(
    write: Callable[[bytes], object],
    dataset: OutputDataset,
    images: list[Chosen],
    snapshot: Snapshot,
) -> None:
    """As it comes: annotations may be many."""
    things, names = thing_ids(dataset.classes), _file_names([image.uri for image in images])
    head = {
        "info": {"description": f"predictions of {dataset.uri}"},
        "categories": [
            {"id": spec.id, "name": spec.name} for spec in dataset.classes if spec.id in things
        ],
        "images": [
            {
                "id": number,
                "file_name": name,
                "coco_url": image.uri,
                "height": image.height,
                "width": image.width,
            }
            for number, (image, name) in enumerate(zip(images, names, strict=True), 1)
        ],
    }
    write(json.dumps(head)[:-1].encode() + b', "annotations": [\n')
    before = b""
    for annotation in _annotations(images, snapshot):
        write(before + json.dumps(annotation).encode())
        before = b",\n"
    write(b"\n]}\n")


def _file_names(uris: Sequence[str]) -> list[str]:
    """Paths from the folder that all images are in, since names may repeat in folders of it."""
    paths = [uri.split("://")[-1].split("/") for uri in uris]
    shared = len(commonprefix([path[:-1] for path in paths]))
    return ["/".join(path[shared:]) for path in paths]


def _annotations(images: list[Chosen], snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    number = 0
    for image_number, image in enumerate(images, 1):
        for batch in object_batches(snapshot, image, _COLUMNS):
            for row in batch.to_pylist():
                number += 1
                yield {
                    "id": number,
                    "image_id": image_number,
                    "category_id": row["class_id"],
                    "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
                    "area": row["area"],
                    "score": row["score"],
                    "iscrowd": 0,
                    "segmentation": {
                        "size": [image.height, image.width],
                        "counts": encode_runs(
                            runs_in_image(row), (0, 0, image.height, image.width)
                        ),
                    },
                }
