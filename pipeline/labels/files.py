"""Finding and decoding the files of annotated data, with one line for what is wrong."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.errors import DataError, RejectError, StorageError
from pipeline.images.reader import FORMATS, decode_image
from pipeline.records import AnnotatedImage, Problem

_FEW = 16  # files that are looked up one by one rather than by listing their folder


def is_image(name: str) -> bool:
    """By its suffix; hidden files are none."""
    hidden = storage.name_of(name).startswith(".")
    return PurePosixPath(name).suffix.lower() in FORMATS and not hidden


def stem(uri: str) -> str:
    """`s3://b/a/x.y.png` → `x.y`."""
    return PurePosixPath(storage.name_of(uri)).stem


def by_stem(uri: str, problems: list[Problem]) -> dict[str, str]:
    """Stem → URI of the images in a folder; none where it is missing.

    Of images that share a stem none is taken, and they are a problem.
    """
    names = [name for name in storage.list_names(uri) if is_image(name)]
    twice = {s for s, n in Counter(map(stem, names)).items() if n > 1}
    problems += [Problem(uri, f"holds more than one file named {s}.*") for s in sorted(twice)]
    return {stem(name): storage.join(uri, name) for name in names if stem(name) not in twice}


def unique_names(paths: Sequence[str]) -> dict[str, str]:
    """Path below a folder → name: its stem, where that repeats the path without suffix, where
    that repeats the path."""
    distinct = set(paths)
    bare = {path: str(PurePosixPath(path).with_suffix("")) for path in distinct}
    stems, bares = Counter(map(stem, distinct)), Counter(bare.values())

    def name(path: str) -> str:
        if stems[stem(path)] == 1:
            return stem(path)
        return bare[path] if bares[bare[path]] == 1 else path

    return {path: name(path) for path in paths}


def absent(uris: Iterable[str]) -> set[str]:
    """Those of some URIs where there is no file; a folder with many of them is listed once."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for uri in uris:
        wanted[uri.rpartition("/")[0]].append(uri)
    doubtful: list[str] = []
    for folder, files in wanted.items():
        listed = set(storage.list_names(folder)) if len(files) > _FEW else set()
        doubtful += [uri for uri in files if storage.name_of(uri) not in listed]
    found = storage.stat_many(doubtful)
    return {uri for uri, file in zip(doubtful, found, strict=True) if file is None}


def read_text(uri: str) -> str:
    """A text file, in UTF-8 with or without its mark."""
    try:
        return storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not text in UTF-8") from error


def read_rows(uri: str) -> list[dict[str, str]]:
    """The rows of a CSV with a header, or of a Parquet file, as text; nothing is ''."""
    if uri.lower().endswith(".parquet"):
        data = storage.read_bytes(uri)
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{uri} is not Parquet: {str(error).splitlines()[0]}") from error
        rows = table.to_pylist()
        return [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    try:
        reader = csv.DictReader(io.StringIO(read_text(uri)), skipinitialspace=True)
        return [{(k or "").strip(): _cell(v) for k, v in row.items()} for row in reader]
    except csv.Error as error:
        raise DataError(f"{uri} is not CSV: {error}") from error


def _cell(value: str | list[str] | None) -> str:
    """Cells beyond the header come as a list, cells that a short line lacks as None."""
    return value.strip() if isinstance(value, str) else ""


def decode(uri: str, *, as_indices: bool = False) -> NDArray[np.generic]:
    """(H, W, C) of an image file.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    return decode_file(read_file(uri), uri, as_indices=as_indices)


def read_file(uri: str) -> bytes:
    """A file's bytes, to be decoded in more than one way.

    Raises:
        DataError: it can't be read.
    """
    try:
        return storage.read_bytes(uri)
    except StorageError as error:
        raise DataError(str(error)) from error


def decode_file(data: bytes, uri: str, *, as_indices: bool = False) -> NDArray[np.generic]:
    """As `decode`, of bytes that were read."""
    try:
        return decode_image(data, uri, ReaderSettings(), as_indices=as_indices)
    except RejectError as error:
        said = error.message
        if error.code == "too_large":  # a limit of predictions, which may raise it
            said = f"{said.partition(';')[0]}; cut it into smaller images"
        raise DataError(f"{uri} {said}") from error


def checked_size(
    image: AnnotatedImage, said: list[int | None], shape: tuple[int, ...] | None
) -> tuple[int, int]:
    """Height and width of an image, of which its annotations may say a part.

    Args:
        said: height and width; None where they say nothing.
        shape: of the decoded image, where that is known.

    Raises:
        DataError: they say another size, or it is too large to be drawn.
    """
    if shape is None and None in said:
        shape = decode(image.image_uri).shape
    height, width = (int(n or 0) for n in (said if shape is None else shape[:2]))
    limit = ReaderSettings().max_pixels
    if None not in said and said != [height, width]:
        raise DataError(
            f"{image.instances_uri} says that {image.image_uri} is {said[0]} x {said[1]}, "
            f"but it is {height} x {width}"
        )
    if height * width > limit:
        raise DataError(f"{image.instances_uri}: {height} x {width} is over {limit} pixels")
    return height, width
