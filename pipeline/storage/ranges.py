"""Parts of files: byte ranges, and a file object that fetches what is looked at."""

import io
from collections.abc import Sequence
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import IncompleteError
from pipeline.storage.door import open_filesystem
from pipeline.storage.files import size_of
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
    fs, path = open_filesystem(uri)
    return _read_ranges(fs, path, uri, ranges) if ranges else []


def _read_ranges(fs: Any, path: str, uri: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
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


def open_seekable(uri: str) -> io.BufferedReader:
    """A file to be read here and there, which is fetched in small blocks as it is looked at.

    Raises:
        StorageError: one of its kinds, here or while it is read.
    """
    fs, path = open_filesystem(uri)
    return open_in(fs, path, uri)


def open_in(fs: Any, path: str, uri: str, block: int = _BLOCK) -> io.BufferedReader:
    """The same of a file system; `uri` is what errors name, `block` the least that is fetched."""
    info = retried(lambda: fs.info(path), uri, "look up", fs, path)
    return io.BufferedReader(_Ranges(fs, path, uri, size_of(info)), block)


class _Ranges(io.RawIOBase):
    """Each read is one request, tried again like any other."""

    def __init__(self, fs: Any, path: str, uri: str, size: int) -> None:
        self._fs, self._path, self._uri = fs, path, uri
        self._size, self._place = size, 0

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
            (data,) = _read_ranges(self._fs, self._path, self._uri, [(self._place, length)])
            buffer[:length] = data
            self._place += length
        return length
