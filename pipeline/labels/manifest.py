"""A table that names every file: Parquet or CSV with the columns

    image                 the image
    instances             its map of object ids             (and, or)
    semantic              its map of class ids or colours
    split                 optional: train, val (or valid, validation), test
    name                  optional; by default the image's name without suffix

and further ones, by which evaluation can group. Paths are relative to the table's folder, or URIs
of their own. classes.yaml lies beside it or is named by the setting.
"""

from collections import Counter

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError, StorageError
from pipeline.labels.base import AnnotatedData, Format, Place
from pipeline.labels.classes import classes_or_object
from pipeline.labels.files import absent, read_rows, unique_names
from pipeline.labels.maps import read_maps
from pipeline.labels.splits import split_by_name, splits_said
from pipeline.records import AnnotatedImage, Problem

_NAMES = ("manifest.parquet", "manifest.csv")
_COLUMNS = ("image", "instances", "semantic")


def is_manifest(place: Place) -> bool:
    """A table, or a folder with manifest.parquet, or with manifest.csv that has an image column."""
    if place.suffix in (".parquet", ".csv") or _NAMES[0] in place.names:
        return True
    if _NAMES[1] not in place.names:
        return False
    first = storage.read_bytes(place.join(_NAMES[1])).split(b"\n", 1)[0]
    header = first.decode("utf-8-sig", errors="replace").split(",")
    return "image" in [column.strip().strip('"') for column in header]


def open_manifest(place: Place, settings: LabelSettings, val_fraction: float) -> AnnotatedData:
    """Read the table and look for the files that it names."""
    uri = place.uri
    if place.suffix not in (".parquet", ".csv"):
        uri = place.join(next((name for name in _NAMES if name in place.names), _NAMES[1]))
    beside = Place.look(uri.rpartition("/")[0])
    rows = read_rows(uri)
    if not rows or "image" not in rows[0] or not set(_COLUMNS[1:]) & rows[0].keys():
        raise DataError(f"{uri} needs rows with the columns image, and instances or semantic")
    problems: list[Problem] = []
    rows = _usable(uri, [_with_uris(beside.uri, row) for row in rows], problems)
    has_semantic = any(row.get("semantic") for row in rows)
    listed = classes_or_object(beside, settings, has_semantic)
    names = _names(uri, beside.uri, rows, problems)
    words = {name: row.get("split", "") for name, row in names.items()}
    if any(words.values()):
        splits = splits_said(uri, words, val_fraction, problems)
    else:
        splits = split_by_name(names, val_fraction)
    images = tuple(
        AnnotatedImage(
            name=name,
            split=splits[name],
            image_uri=row["image"],
            instances_uri=row.get("instances") or None,
            semantic_uri=row.get("semantic") or None,
            attributes={k: v for k, v in row.items() if k not in (*_COLUMNS, "name", "split")},
            format="manifest",
            annotation=listed.legend.to_json(),
        )
        for name, row in names.items()
        if name in splits
    )
    return AnnotatedData(uri, "manifest", images, listed.classes, listed.void, tuple(problems))


def _with_uris(folder: str, row: dict[str, str]) -> dict[str, str]:
    named = {c: storage.resolve(row[c], folder) for c in _COLUMNS if row.get(c)}
    return {key: value for key, value in row.items() if key not in _COLUMNS} | named


def _usable(uri: str, rows: list[dict[str, str]], problems: list[Problem]) -> list[dict[str, str]]:
    """The rows that name an image and labels that are there."""
    try:
        missing = absent(row[c] for row in rows for c in _COLUMNS if c in row)
    except StorageError as error:
        raise DataError(f"{uri}: {error}") from error
    needs_semantic = any("semantic" in row for row in rows)
    kept = []
    for number, row in enumerate(rows, start=1):
        where = f"{uri} row {number}"
        lacking = [row[c] for c in _COLUMNS if row.get(c) in missing]
        if "image" not in row:
            problems.append(Problem(where, "names no image"))
        elif "instances" not in row and "semantic" not in row:
            problems.append(Problem(where, f"names no label for {row['image']}"))
        elif needs_semantic and "semantic" not in row:
            problems.append(Problem(where, f"names no class map for {row['image']}"))
        elif lacking:
            problems.append(Problem(where, f"names {lacking[0]}, which does not exist"))
        else:
            kept.append(row)
    return kept


def _names(
    uri: str, folder: str, rows: list[dict[str, str]], problems: list[Problem]
) -> dict[str, dict[str, str]]:
    """Name → row, of the rows whose name no other row has."""
    paths = [row["image"].removeprefix(folder.rstrip("/") + "/") for row in rows]
    by_path = unique_names(paths)
    names = [row.get("name") or by_path[path] for path, row in zip(paths, rows, strict=True)]
    twice = {name for name, n in Counter(names).items() if n > 1}
    problems += [Problem(uri, f"names {name} twice") for name in sorted(twice)]
    return {name: row for name, row in zip(names, rows, strict=True) if name not in twice}


FORMAT = Format(
    looks_for="manifest.parquet or manifest.csv with a column named image",
    settings=frozenset({"classes", "palette", "void"}),
    fits=is_manifest,
    open=open_manifest,
    read=read_maps,
)
