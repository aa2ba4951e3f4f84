"""Which images train and which validate."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath

from pipeline.errors import DataError
from pipeline.labels.base import Place
from pipeline.labels.files import read_rows
from pipeline.records import Problem

MANIFEST = "manifest.csv"
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_of(word: str) -> str | None:
    """The split that a folder's or a file's name says: `valid` and `val2017` are val."""
    parts = PurePosixPath(word).stem.lower().replace("-", "_").replace(".", "_").split("_")
    for part in parts:
        found = _WORDS.get(part.rstrip("0123456789"))
        if found:
            return found
    return None


def named_splits(
    place: Place, names: Iterable[str], val_fraction: float, problems: list[Problem]
) -> dict[str, dict[str, str]]:
    """Name → its row of manifest.csv, with a split; without one, a split by name."""
    known = set(names)
    if MANIFEST not in place.names:
        splits = split_by_name(known, val_fraction)
        return {name: {"split": split} for name, split in splits.items()}
    uri = place.join(MANIFEST)
    rows = read_rows(uri)
    if not rows or not {"name", "split"} <= rows[0].keys():
        raise DataError(f"{uri} needs a header with the columns name and split")
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["name"] not in known:
            problems.append(Problem(uri, f"names {row['name']}, of which there is no image"))
        elif row["name"] in found:
            problems.append(Problem(uri, f"names {row['name']} twice"))
        elif not row["split"]:
            problems.append(Problem(uri, f"names no split for {row['name']}"))
        else:
            found[row["name"]] = row
    return found


def hold_out(splits: dict[str, str], val_fraction: float) -> dict[str, str]:
    """Name → split; where nothing is named val, a share of what would train is held out."""
    if "val" in splits.values():
        return splits
    training = [name for name, split in splits.items() if split == "train"]
    return splits | split_by_name(training, val_fraction)


def split_by_name(names: Iterable[str], val_fraction: float) -> dict[str, str]:
    """Name → split, by a hash of the name: adding images moves none to the other split."""
    place = {n: int(hashlib.blake2b(n.encode(), digest_size=4).hexdigest(), 16) for n in names}
    limit = val_fraction * 2**32
    held_out = {name for name, value in place.items() if value < limit}
    ordered = sorted(place, key=lambda name: place[name])
    if not held_out and len(ordered) > 1:
        held_out = {ordered[0]}
    if len(held_out) == len(ordered) and len(ordered) > 1:
        held_out.remove(ordered[-1])
    return {name: "val" if name in held_out else "train" for name in sorted(place)}
