"""Files that are written as their content comes, and are there whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any, cast

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.door import open_filesystem
from pipeline.storage.faults import named
from pipeline.storage.files import temporary_name

_PART = 16 << 20
"""Bytes of a part of an upload: S3 takes 10,000 of them, so files of up to 160 GB."""


@contextlib.contextmanager
def open_output(uri: str) -> Iterator[IO[bytes]]:
    """A file that is there once the `with` has ended without an error.

    Raises:
        StorageError: it can't be written.
    """
    fs, path = open_filesystem(uri)
    file: Any
    local = isinstance(fs, LocalFileSystem)
    with named(uri, "write"):
        if local:
            temporary = temporary_name(path)
            os.makedirs(os.path.dirname(temporary), exist_ok=True)
            file = open(temporary, "xb")  # noqa: SIM115  # closed below, or removed
        else:
            file = fs.open(path, "wb", block_size=_PART)
    try:
        yield cast(IO[bytes], _Named(file, uri))
        with named(uri, "write"):
            file.close()
            if local:
                os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to be told
            if local:
                file.close()
                os.unlink(temporary)
            else:
                file.discard()
                file.closed = True  # or the interpreter would still complete it
        raise


class _Named:
    """A file whose faults are told as ours; what else goes wrong in the `with` is not its own."""

    closed = False

    def __init__(self, file: Any, uri: str) -> None:
        self._file, self._uri = file, uri

    def write(self, data: bytes) -> int:
        with named(self._uri, "write"):
            written: int = self._file.write(data)
            return written

    def tell(self) -> int:
        place: int = self._file.tell()
        return place

    def flush(self) -> None:
        """Parts are sent when they are full."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def open_file(uri: str) -> Iterator[str]:
    """The path of a local file to be written by whoever needs one; it goes to the URI at the end.

    For libraries that go back in a file while they write it.

    Raises:
        StorageError: it can't be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        yield path
        with open_output(uri) as target, open(path, "rb") as source:
            while part := source.read(_PART):
                target.write(part)
