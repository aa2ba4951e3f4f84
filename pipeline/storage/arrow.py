"""Files for pyarrow: by the same credentials as all others, and as patient with faults."""

import pyarrow as pa
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.door import open_filesystem, uri_of
from pipeline.storage.ranges import open_in

_STREAM_BLOCK = 4 << 20
"""Bytes that are fetched at once of a file that is read from its beginning to its end."""


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The store of a URI for pyarrow, and the path in it."""
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path
    # Servers on the web need neither know ranges nor say how large a file is.
    handler = pyarrow.fs.FSSpecHandler if "http" in fs.protocol else ObjectStore
    return pyarrow.fs.PyFileSystem(handler(fs)), path


class ObjectStore(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]
    """Patient with faults, of which pyarrow takes any at opening for a file that is not there."""

    def create_dir(self, path: str, recursive: bool) -> None:
        """A folder is made by what is put into it.

        s3fs would ask for the bucket, and make one where it may not ask.
        """

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(open_in(self.fs, path, uri_of(self.fs, path)), mode="r")

    def open_input_stream(self, path: str) -> pa.PythonFile:
        file = open_in(self.fs, path, uri_of(self.fs, path), _STREAM_BLOCK)
        return pa.PythonFile(file, mode="r")
