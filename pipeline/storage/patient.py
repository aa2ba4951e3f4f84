"""A store for programs that use it through pyarrow, and end at its first fault: Ray Train.

What they ask for is tried again, as everything in this room is, and fails as one of our errors.
"""

import io
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs

from pipeline.storage.arrow import ObjectStore, arrow_filesystem
from pipeline.storage.door import is_local, open_filesystem, uri_of
from pipeline.storage.files import write_bytes
from pipeline.storage.retrying import outlasting, retried

T = TypeVar("T")


def patient_filesystem(uri: str, patience: float = 0) -> tuple[pyarrow.fs.FileSystem, str]:
    """`arrow_filesystem` for the writing of files that fit in memory; a local one is as it is.

    Args:
        uri: a folder.
        patience: seconds that a store may be away.
    """
    if is_local(uri):
        return arrow_filesystem(uri)
    fs, path = open_filesystem(uri)
    return pyarrow.fs.PyFileSystem(_Patient(fs, patience)), path


class _Patient(ObjectStore):
    """Files are written whole, so that they can be once more."""

    def __init__(self, fs: Any, patience: float) -> None:
        super().__init__(fs)
        self._patience = patience

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        look = super().get_file_info
        return [info for path in paths for info in self._retried(look, "look up", path, [path])]

    def get_file_info_selector(self, selector: Any) -> list[pyarrow.fs.FileInfo]:
        look = super().get_file_info_selector
        return self._retried(look, "list", selector.base_dir, selector)

    def delete_dir(self, path: str) -> None:
        self._retried(super().delete_dir, "remove", path, path)

    def delete_file(self, path: str) -> None:
        self._retried(super().delete_file, "remove", path, path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        return pa.PythonFile(_Whole(uri_of(self.fs, path), self._patience), mode="w")

    def _retried(self, call: Callable[..., T], verb: str, path: str, *given: Any) -> T:
        again = partial(retried, partial(call, *given), uri_of(self.fs, path), verb, self.fs, path)
        return outlasting(again, self._patience)


class _Whole(io.BytesIO):
    """Content that is written when it is complete."""

    def __init__(self, uri: str, patience: float) -> None:
        super().__init__()
        self._uri, self._patience = uri, patience

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            super().close()
            outlasting(lambda: write_bytes(self._uri, content), self._patience)
