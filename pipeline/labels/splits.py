"""Which images train and which validate.

manifest.csv                      name, split
train.txt, val.txt, valid.txt …   an image a line: its name, its file or its path
"""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from pipeline.errors import DataError
from pipeline.labels.base import Place, first_few
from pipeline.labels.files import read_rows, read_text, stem
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


def is_split(word: str) -> bool:
    """Whether a name is a split's and nothing else: `valid`, but neither `val2017` nor `val_a`."""
    return word.lower() in _WORDS


def named_splits(
    place: Place,
    names: Iterable[str],
    val_fraction: float,
    problems: list[Problem],
    notes: list[Problem],
) -> dict[str, dict[str, str]]:
    """Name → its row of manifest.csv, with a split; without one, by lists or by name."""
    known = set(names)
    if MANIFEST not in place.names:
        listed = _listed_splits(place, known, problems, notes)
        splits = hold_out(listed, val_fraction) if listed else split_by_name(known, val_fraction)
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
        else:
            found[row["name"]] = row
    notes += _left_out(uri, known, found)
    words = {name: row["split"] for name, row in found.items()}
    splits = splits_said(uri, words, val_fraction, problems)
    return {name: found[name] | {"split": split} for name, split in splits.items()}


def splits_of_folders(
    place: Place,
    said: dict[str, str | None],
    val_fraction: float,
    problems: list[Problem],
    notes: list[Problem],
) -> dict[str, dict[str, str]]:
    """Name → its row, by the split of its folder, or as `named_splits` where one says none."""
    words = {name: split for name, split in said.items() if split}
    if len(words) < len(said) or not said:
        return named_splits(place, said, val_fraction, problems, notes)
    return {n: {"split": split} for n, split in hold_out(words, val_fraction).items()}


def _listed_splits(
    place: Place, known: set[str], problems: list[Problem], notes: list[Problem]
) -> dict[str, str]:
    """Name → split, by lists such as valid.txt; what none of them names trains, unless one of them
    says what does."""
    lists = {n: _WORDS[stem(n).lower()] for n in place.names if _is_list(n)}
    splits: dict[str, str] = {}
    first: dict[str, str] = {}
    for file, split in sorted(lists.items()):
        uri = place.join(file)
        named, missing = named_in(read_text(uri), known)
        if not named:
            problems.append(Problem(uri, "names none of the images; mend it, or take it away"))
        elif missing:
            what = f"names {len(missing):,} of which there is no image: {first_few(missing)}"
            notes.append(Problem(uri, what))
        for name in named:
            if splits.setdefault(name, split) != split:
                problems.append(Problem(uri, f"names {name}, as {first[name]} does"))
            first.setdefault(name, file)
    if lists and "train" not in lists.values():
        return dict.fromkeys(sorted(known), "train") | splits
    if lists:
        where = f"{place.uri} ({', '.join(sorted(lists))})"
        notes += _left_out(where, known, splits)
    return dict(sorted(splits.items()))


def _is_list(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix.lower() == ".txt" and path.stem.lower() in _WORDS


def named_in(text: str, known: set[str]) -> tuple[list[str], list[str]]:
    """The images that the lines of a list name, and the lines that name none."""
    named, missing = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        path = line.split()[0]  # some lists name the label as well
        name = next((n for n in (line, stem(line), path, stem(path)) if n in known), None)
        if name is None:
            missing.append(line)
        else:
            named.append(name)
    return named, missing


def _left_out(where: str, known: set[str], listed: Collection[str]) -> list[Problem]:
    unlisted = sorted(known.difference(listed))
    if not unlisted:
        return []
    what = f"does not list {len(unlisted):,} of {len(known):,} images, which are left out"
    return [Problem(where, f"{what}: {first_few(unlisted)}")]


def splits_said(
    uri: str, words: dict[str, str], val_fraction: float, problems: list[Problem]
) -> dict[str, str]:
    """Name → split, of a table's words for them; a share is held out where none is for val.

    A word that is none of a split's is a problem: an image that a slip of the pen kept out of both
    splits would be missed by nobody.
    """
    splits = {}
    for name, word in words.items():
        split = split_of(word)
        if split:
            splits[name] = split
        elif word:
            problems.append(
                Problem(uri, f"names the split {word} for {name}; it takes train, val or test")
            )
        else:
            problems.append(Problem(uri, f"names no split for {name}"))
    return hold_out(splits, val_fraction)


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
    if ordered and len(held_out) == len(ordered):  # one trains, in any case
        held_out.remove(ordered[-1])
    return {name: "val" if name in held_out else "train" for name in sorted(place)}
