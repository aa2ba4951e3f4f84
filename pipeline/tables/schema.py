"""Every Arrow schema of the output dataset. Boxes are y0 x0 y1 x1, half-open, in image pixels."""

import pyarrow as pa

SCHEMA_VERSION = 1

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("channels", pa.int32()),
        ("n_objects", pa.int64()),
        ("shard", pa.string()),
        ("run", pa.string()),
        ("model", pa.string()),
        ("predicted_at", pa.timestamp("us", tz="UTC")),
    ]
)

OBJECTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("object_id", pa.int64()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("score", pa.float32()),
        ("y0", pa.int32()),
        ("x0", pa.int32()),
        ("y1", pa.int32()),
        ("x1", pa.int32()),
        ("centroid_y", pa.float64()),
        ("centroid_x", pa.float64()),
        ("area", pa.int64()),
        ("major_axis", pa.float32()),
        ("minor_axis", pa.float32()),
        ("eccentricity", pa.float32()),
        ("intensity_mean", pa.list_(pa.float32())),
        ("intensity_std", pa.list_(pa.float32())),
        ("truncated", pa.bool_()),
        ("rle", pa.string()),
        ("shard", pa.string()),
    ]
)

COUNTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("n_objects", pa.int64()),  # null for stuff, which is not counted
        ("object_area", pa.int64()),  # null for stuff
        ("pixels", pa.int64()),
        ("shard", pa.string()),
    ]
)

MASKS = pa.schema(
    [
        ("image_id", pa.string()),
        ("y0", pa.int32()),
        ("x0", pa.int32()),
        ("y1", pa.int32()),
        ("x1", pa.int32()),
        ("semantic", pa.binary()),  # PNG, 8 bit: class ids
        ("instances", pa.binary()),  # PNG, 16 bit: 0, or k for the object_ids[k - 1]
        ("object_ids", pa.list_(pa.int64())),
        ("shard", pa.string()),
    ]
)

REJECTS = pa.schema(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("stage", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("shard", pa.string()),
        ("run", pa.string()),
    ]
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
