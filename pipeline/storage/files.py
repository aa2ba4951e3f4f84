"""Read, write, look up and remove files.

Local writes go to a temporary name first and are renamed, object stores create whole objects, so
a reader sees a file complete or not at all.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import IncompleteError, MissingError
from pipeline.storage.door import is_s3, open_filesystem, uri_of
from pipeline.storage.retrying import retried
from pipeline.storage.uris import join

_THREADS = 16


@dataclass(frozen=True)
class StoredFile:
    """One file as listed."""

    uri: str
    size: int
    version: str
    """Changes when the content does: the store's etag, or size and modification time."""


def read_bytes(uri: str, size: int | None = None) -> bytes:
    """The whole of one file.

    Args:
        uri: the file.
        size: how many bytes it has, where that is known.

    Raises:
        IncompleteError: it had another size, every time.
        StorageError: one of its kinds.
    """
    fs, path = open_filesystem(uri)
    local = isinstance(fs, LocalFileSystem)
    options: dict[str, Any] = {}
    if is_s3(fs) and size is not None and size <= fs.default_block_size:
        options["max_concurrency"] = 1  # one request: s3fs asks for the size before it splits

    def read() -> bytes:
        content: bytes = _read_local(path) if local else fs.cat_file(path, **options)
        if size is not None and len(content) != size:
            raise IncompleteError(
                f"cannot read {uri}: {len(content)} bytes came, {size} were expected"
            )
        return content

    return retried(read, uri, "read", fs, path)


def _read_local(path: str) -> bytes:
    # Not through fsspec, which seeks to the end first: files below /proc cannot.
    with open(path, "rb") as file:
        return file.read()


def write_bytes(uri: str, data: bytes, check: Callable[[], None] = lambda: None) -> None:
    """Create or replace one file, whole or not at all.

    Args:
        uri: the file.
        data: its content.
        check: called as late as can be, in each try; raises where it may not be written any more.
    """
    fs, path = open_filesystem(uri)

    def write() -> None:
        if isinstance(fs, LocalFileSystem):
            with temporary_beside(path, data) as temporary:
                check()
                os.replace(temporary, path)
        else:
            check()
            fs.pipe_file(path, data)

    retried(write, uri, "write", fs, path)


@contextlib.contextmanager
def temporary_beside(path: str, data: bytes) -> Iterator[str]:
    """A local file with the data, in the folder of `path`; gone afterwards unless moved away."""
    temporary = temporary_name(path)
    os.makedirs(os.path.dirname(temporary), exist_ok=True)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def temporary_name(path: str) -> str:
    """Beside `path`; it begins with a dot, so that globs and listings pass it over.

    Nobody else's file is called like this: what dead writers left is removed by its name.
    """
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.tessera-{uuid.uuid4().hex[:8]}"


def exists(uri: str) -> bool:
    """Whether there is a file or a folder."""
    fs, path = open_filesystem(uri)

    def look() -> bool:
        if is_s3(fs) and not fs.split_path(path)[1]:
            # s3fs would take any fault, a refusal too, for a bucket that does not exist.
            fs.call_s3("list_objects_v2", Bucket=path.strip("/"), MaxKeys=1)
            return True
        if "http" in fs.protocol:
            fs.info(path)  # its `exists` takes a server that does not answer for a missing file
            return True
        return bool(fs.exists(path))

    try:
        return retried(look, uri, "look up", fs, path)
    except MissingError:
        return False


def remove(uri: str) -> None:
    """Delete one file; it is no error when there is none."""
    fs, path = open_filesystem(uri)
    with contextlib.suppress(MissingError):
        retried(lambda: fs.rm_file(path), uri, "remove", fs, path)


def remove_many(uris: Iterable[str]) -> None:
    """`remove` of many URIs at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(remove, uris):
            pass


def stat(uri: str) -> StoredFile | None:
    """One file as a listing would show it; None where there is none."""
    fs, path = open_filesystem(uri)
    try:
        return retried(lambda: _stored_file(fs, fs.info(path), uri), uri, "look up", fs, path)
    except MissingError:
        return None


def stat_many(uris: list[str]) -> list[StoredFile | None]:
    """`stat` of many URIs at once, in their order."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(stat, uris))


def copy_folder(source: str, target: str) -> None:
    """Copy every file below one URI to another; the two may lie in different stores."""
    from pipeline.storage.listing import list_paths

    for relative in list_paths(source):
        write_bytes(join(target, relative), read_bytes(join(source, relative)))


def remove_folder(uri: str) -> None:
    """Delete a folder and all below it; it is no error when there is none."""
    fs, path = open_filesystem(uri)

    if isinstance(fs, LocalFileSystem):
        with contextlib.suppress(MissingError):
            retried(lambda: shutil.rmtree(path), uri, "remove")
        return
    # One by one: s3fs's own removal of many passes over what the store did not remove.
    found: list[str] = retried(lambda: fs.find(path), uri, "list", fs, path)
    remove_many(uri_of(fs, each) for each in found)


def version_of(info: dict[str, Any]) -> str:
    """The version of a file of an object store, from what its listing says."""
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return str(etag).strip('"')
    modified = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return f"{info.get('size')}-{modified}"


def local_version(status: os.stat_result) -> str:
    """The version of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _stored_file(fs: Any, info: dict[str, Any], uri: str) -> StoredFile:
    if isinstance(fs, LocalFileSystem):
        # Of the file that a link leads to, which is what will be read.
        status = os.stat(info["name"])
        return StoredFile(uri, status.st_size, local_version(status))
    return StoredFile(uri, size_of(info), version_of(info))


def size_of(info: dict[str, Any]) -> int:
    """The size in bytes of a listed file, -1 where the listing does not say."""
    return int(info["size"] if info.get("size") is not None else -1)
