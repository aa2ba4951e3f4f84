"""Create a file, with exactly one winner of any race."""

import contextlib
import errno
import os
import uuid
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.door import is_s3, open_filesystem
from pipeline.storage.faults import code_of
from pipeline.storage.files import temporary_beside
from pipeline.storage.retrying import retried

_WRITER = "tessera-writer"
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What exFAT, some network shares and mounted buckets say to a hard link."""


def create_bytes(uri: str, data: bytes) -> bool:
    """Create one file, whole or not at all; False where it exists already.

    Of any number of callers that race for a name, one is told True: with a hard link on local
    disks, with a conditional PUT on S3, so `data` must be small enough for a single part
    (100 MB). Other object stores must support fsspec's `mode="create"`. Where a disk knows no hard
    links, a writer that is killed may leave the file cut short, and nobody else creates it.
    """
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return retried(lambda: _create_local(path, data), uri, "create")
    if is_s3(fs):
        token = uuid.uuid4().hex
        return retried(lambda: _create_s3(fs, path, data, token), uri, "create", fs, path)
    return retried(lambda: _create_elsewhere(fs, path, data), uri, "create", fs, path)


def _create_local(path: str, data: bytes) -> bool:
    with temporary_beside(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_in_place(path, data)
        return True


def _create_in_place(path: str, data: bytes) -> bool:
    try:
        file = open(path, "xb")  # noqa: SIM115  # a file that was there must not be removed below
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to be told
            os.unlink(path)
        raise
    return True


def _create_s3(fs: Any, path: str, data: bytes, token: str) -> bool:
    try:
        fs.pipe_file(path, data, mode="create", Metadata={_WRITER: token})
    except OSError as error:
        # s3fs says FileExistsError where the store names the condition, EINVAL where not.
        if isinstance(error, FileExistsError) or code_of(error) in ("PreconditionFailed", "412"):
            return _is_ours(fs, path, token)
        raise
    return True


def _is_ours(fs: Any, path: str, token: str) -> bool:
    """Whether this call made the object: its answer was lost, and the client had tried again."""
    bucket, key, _ = fs.split_path(path)
    try:
        metadata = fs.call_s3("head_object", Bucket=bucket, Key=key).get("Metadata", {})
    except FileNotFoundError:
        return False
    return bool(metadata.get(_WRITER) == token)


def _create_elsewhere(fs: Any, path: str, data: bytes) -> bool:
    try:
        fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True
