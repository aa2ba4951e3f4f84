"""Every Arrow schema of the output dataset. Boxes are y0 x0 y1 x1, half-open, in image pixels."""

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 1


def _table(*columns: tuple[str, pa.DataType, str]) -> pa.Schema:
    """Columns, each with what it says; whoever opens a file finds that as the field's metadata."""
    return pa.schema(
        [pa.field(name, kind, metadata={"description": said}) for name, kind, said in columns]
    )


_IMAGE_ID = ("image_id", pa.string(), "a hash of URI and version, the same in all tables")
_URI = ("uri", pa.string(), "where the input lies")
_VERSION = ("version", pa.string(), "of the file: its etag, or its size and time")
_CLASS = (
    ("class_id", pa.int32(), "as dataset.json lists the classes"),
    ("class_name", pa.string(), "as dataset.json lists the classes"),
)
_SHARD = ("shard", pa.string(), "the rows that were committed together; its files are named by it")
_RUN = ("run", pa.string(), "folder of _runs that tells how it was made")


def _box(of: str) -> tuple[tuple[str, pa.DataType, str], ...]:
    edges = (("y0", "first row"), ("x0", "first column"),
             ("y1", "row behind the last"), ("x1", "column behind the last"))  # fmt: skip
    return tuple((name, pa.int32(), f"{edge} of the {of}, in pixels") for name, edge in edges)


IMAGES = _table(
    _IMAGE_ID,
    _URI,
    _VERSION,
    ("height", pa.int32(), "in pixels"),
    ("width", pa.int32(), "in pixels"),
    ("channels", pa.int32(), "of the file"),
    ("n_objects", pa.int64(), "rows of the table objects"),
    _SHARD,
    _RUN,
    ("model", pa.string(), "fingerprint of the model bundle"),
    ("predicted_at", pa.timestamp("us", tz="UTC"), "when the row was made"),
)

OBJECTS = _table(
    _IMAGE_ID,
    ("object_id", pa.int64(), "from 1, in its image"),
    *_CLASS,
    ("score", pa.float32(), "how likely the object is right, 0 to 1"),
    *_box("object"),
    ("centroid_y", pa.float64(), "mean row of the pixels, whose middles are whole numbers"),
    ("centroid_x", pa.float64(), "mean column of the pixels"),
    ("area", pa.int64(), "pixels"),
    ("major_axis", pa.float32(), "of the ellipse with the same second moments, in pixels"),
    ("minor_axis", pa.float32(), "of that ellipse, in pixels"),
    ("eccentricity", pa.float32(), "of that ellipse: 0 for a circle, towards 1 for a line"),
    ("intensity_mean", pa.list_(pa.float32()), "a value a channel, in the file's own units"),
    ("intensity_std", pa.list_(pa.float32()), "standard deviation, a value a channel"),
    ("truncated", pa.bool_(), "whether it touches the border of the image"),
    ("rle", pa.string(), "the mask over the box: COCO's compressed run-length code"),
    _SHARD,
)

COUNTS = _table(
    _IMAGE_ID,
    _URI,
    *_CLASS,
    ("n_objects", pa.int64(), "0 where there is none; null for stuff, which is not counted"),
    ("object_area", pa.int64(), "pixels of these objects, added up; null for stuff"),
    ("pixels", pa.int64(), "of the class in the map semantic, those of objects left out included"),
    _SHARD,
)

MASKS = _table(
    _IMAGE_ID,
    *_box("tile"),
    ("semantic", pa.binary(), "PNG of 8 bits: class ids"),
    ("instances", pa.binary(), "PNG of 16 bits: 0, or k for the k-th of object_ids, from 1"),
    ("object_ids", pa.list_(pa.int64()), "of the objects in the tile"),
    _SHARD,
)

REJECTS = _table(
    _URI,
    _VERSION,
    ("stage", pa.string(), "where it failed: read, predict, or process where that ended"),
    ("code", pa.string(), "what the input is or does, as README.md lists"),
    ("message", pa.string(), "why, in a line"),
    _SHARD,
    _RUN,
)

SCHEMAS = {
    "objects": OBJECTS,
    "counts": COUNTS,
    "masks": MASKS,
    "rejects": REJECTS,
    "images": IMAGES,
}
"""Table → schema, in the order of writing: images last, since its file commits the shard."""

PLAN = pa.schema(
    [
        ("shard", pa.string()),
        ("partition", pa.string()),  # Hive directory, or empty
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size", pa.int64()),
        ("old_shard", pa.string()),  # where the rows lie that this image's result replaces
        ("old_image", pa.string()),
    ]
)
"""A row an image; the rows of a shard follow one another."""

REPLACED = pa.schema(
    [
        ("shard", pa.string()),
        ("image_id", pa.string()),  # null: every row of that shard
        ("uri", pa.string()),
    ]
)
"""Rows that no longer count once the shard whose record this is has been committed."""

LIVE = pa.schema(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("image_id", pa.string()),
        ("shard", pa.string()),
    ]
)
"""A row an image that has its result or its reject."""
