"""Parts of files: byte ranges, and a file object that fetches what is looked at."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import IO

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import IncompleteError, MissingError
from pipeline.storage.door import open_filesystem
from pipeline.storage.files import stat
from pipeline.storage.retrying import retried

_BLOCK = 256 << 10
"""Bytes that a file object fetches at once: directories and metadata are small and scattered."""


def read_ranges(uri: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Parts of one file, fetched together.

    Args:
        ranges: offset and length of each.

    Raises:
        IncompleteError: the file has less bytes.
        StorageError: one of its kinds.
    """
    if not ranges:
        return []
    fs, path = open_filesystem(uri)

    def read() -> list[bytes]:
        if isinstance(fs, LocalFileSystem):
            parts = _read_local(path, ranges)
        else:
            starts = [offset for offset, _ in ranges]
            ends = [offset + length for offset, length in ranges]
            parts = fs.cat_ranges([path] * len(ranges), starts, ends, on_error="raise")
        for (offset, length), part in zip(ranges, parts, strict=True):
            if len(part) != length:
                raise IncompleteError(
                    f"cannot read {uri}: {len(part)} of {length} bytes came from {offset} on"
                )
        return parts

    return retried(read, uri, "read", fs, path)


def _read_local(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    with open(path, "rb") as file:
        parts = []
        for offset, length in ranges:
            file.seek(offset)
            parts.append(file.read(length))
        return parts


@contextlib.contextmanager
def open_seekable(uri: str) -> Iterator[IO[bytes]]:
    """A file to be read here and there, which is fetched in small blocks as it is looked at.

    Raises:
        StorageError: one of its kinds, here or while it is read.
    """
    found = stat(uri)
    if found is None:
        raise MissingError(f"{uri} does not exist")
    with io.BufferedReader(_Ranges(uri, found.size), _BLOCK) as file:
        yield file


class _Ranges(io.RawIOBase):
    """Each read is one request, tried again like any other."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._place = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._place))
        if length:
            (data,) = read_ranges(self._uri, [(self._place, length)])
            buffer[:length] = data
            self._place += length
        return length
