"""Whether a place can be written to, found out before the work whose result goes there."""

import os
import tempfile

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.door import open_filesystem
from pipeline.storage.files import remove, temporary_name, write_bytes
from pipeline.storage.retrying import retried


def check_writable(uri: str) -> None:
    """Write a file where `uri` will be, and take it away again.

    Locally it has no name, and lies in the nearest folder that exists, so that none is left behind.

    Raises:
        StorageError: it can't be written.
    """
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        retried(lambda: _try_local(path), uri, "write")
        return
    probe = temporary_name(uri)
    write_bytes(probe, b"")
    remove(probe)


def _try_local(path: str) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(path)
    folder = os.path.dirname(path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    with tempfile.TemporaryFile(dir=folder):
        pass
