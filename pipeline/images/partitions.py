"""The partitions of a collection: a few values an image, and the folders they become.

A value comes from the image's URI by a pattern, or from a column of the manifest. As a folder a
partition is Hive's `date=2026-10-01/site=a`, with the values quoted as in a URL, which DuckDB,
pyarrow and Spark read back as columns.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import DataError, SettingsError

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""The value of a folder whose images have none; Hive's word for it."""
RESERVED = {
    "uri", "image_id", "version", "size", "partition", "shard", "run", "model", "predicted_at",
    "height", "width", "channels", "n_objects", "object_id", "class_id", "class_name", "score",
    "y0", "x0", "y1", "x1", "centroid_y", "centroid_x", "area", "major_axis", "minor_axis",
    "eccentricity", "intensity_mean", "intensity_std", "truncated", "rle", "object_area",
    "pixels", "semantic", "instances", "object_ids", "stage", "code", "message", "old_shard",
    "old_image",
}  # fmt: skip
"""Columns of the tables, which a partition may not hide. `tables` comes after this room, so they
are spelled out; a test compares."""
_LONGEST_FOLDER = 255
"""Bytes that file systems allow a name."""


@dataclass(frozen=True)
class Partition:
    """One column of the partitioning."""

    name: str
    pattern: re.Pattern[str] | None
    """Searched in the URI; None for a column of the manifest."""

    def find(self, uri: str) -> str | None:
        """The value that a URI has: the pattern's first group, or all it matched."""
        assert self.pattern is not None
        match = self.pattern.search(uri)
        return match[min(self.pattern.groups, 1)] if match else None


@dataclass(frozen=True)
class PartitionSpec:
    """How the images of a collection are divided, outermost first; empty for not at all."""

    columns: tuple[Partition, ...] = ()

    @classmethod
    def parse(cls, settings: Iterable[str]) -> "PartitionSpec":
        """From `NAME=REGEX` (found in the URI) and `NAME` (a column of the manifest).

        Raises:
            SettingsError: a name that can't be a column of its own, or a wrong pattern.
        """
        columns = tuple(_parse_column(text) for text in settings)
        names = [column.name.lower() for column in columns]
        for name in names:
            if names.count(name) > 1:
                raise SettingsError(f"partition {name} is given more than once")
        return cls(columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def from_manifest(self) -> tuple[str, ...]:
        """The columns that only a manifest can give."""
        return tuple(column.name for column in self.columns if column.pattern is None)

    def values(self, uris: pa.Array, given: dict[str, pa.Array]) -> list[pa.Array]:
        """A string array a column, null where an image has no value.

        Args:
            given: the manifest's own columns, as strings.
        """
        searched = uris.to_pylist() if len(given) < len(self.columns) else []
        return [
            _without_blanks(given[column.name])
            if column.pattern is None
            else _without_blanks(pa.array([column.find(uri) for uri in searched], pa.string()))
            for column in self.columns
        ]


def partition_dir(names: Sequence[str], values: Sequence[str | None]) -> str:
    """The folder of a partition: `date=2026-10-01/site=a`, or nothing without names.

    Raises:
        DataError: a value that is too long for a folder's name.
    """
    folders = [
        f"{name}={quote(value, safe='') if value else NULL_FOLDER}"
        for name, value in zip(names, values, strict=True)
    ]
    for name, folder in zip(names, folders, strict=True):
        if len(folder) > _LONGEST_FOLDER:
            raise DataError(f"partition {name} has a value too long for a folder: {folder[:80]}…")
    return "/".join(folders)


def partition_values(folder: str) -> dict[str, str | None]:
    """The inverse of `partition_dir`: name → value, in order."""
    parts = (part.partition("=") for part in folder.split("/") if part)
    return {name: None if text == NULL_FOLDER else unquote(text) for name, _, text in parts}


def _parse_column(text: str) -> Partition:
    name, has_pattern, pattern = text.partition("=")
    name = name.strip()
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise SettingsError(
            f"partition {text!r}: takes NAME=REGEX or NAME, where a name is of letters, digits "
            "and _ and begins with a letter"
        )
    if name.lower() in RESERVED:
        raise SettingsError(f"partition {name}: the tables have a column of that name; rename it")
    if not has_pattern:
        return Partition(name, None)
    try:
        return Partition(name, re.compile(pattern))
    except re.error as error:
        raise SettingsError(f"partition {name}: {pattern!r} is no pattern: {error}") from error


def _without_blanks(values: pa.Array) -> pa.Array:
    """Null where the text is empty or the word for null, which folders can't tell from null."""
    blank = pc.is_in(values, value_set=pa.array(["", NULL_FOLDER]))
    return pc.if_else(blank, pa.scalar(None, pa.string()), values)
