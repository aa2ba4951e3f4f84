"""The only door to files and object stores.

A URI is a local path or anything that fsspec knows (`s3://bucket/key`). Credentials come from the
backend's own chain (environment, profile, role), never from settings. Local writes go to a
temporary name first and are renamed, object stores create whole objects, so a reader sees a file
complete or not at all.
"""

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageError

_STAT_THREADS = 16


@dataclass(frozen=True)
class StoredFile:
    """One file as listed."""

    uri: str
    size: int
    version: str
    """Changes when the content does: the store's etag, or size and modification time."""


def absolute(uri: str) -> str:
    """Local paths made absolute, so that they mean the same in every process."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def join(uri: str, *parts: str) -> str:
    """A URI below another."""
    return "/".join([uri.rstrip("/"), *parts]) if parts else uri


def name_of(uri: str) -> str:
    """The last part of a URI: `s3://b/a/x.png` → `x.png`."""
    return uri.rstrip("/").rpartition("/")[2]


def is_local(uri: str) -> bool:
    """Whether a URI lies in this machine's file system."""
    return isinstance(_open_filesystem(uri)[0], LocalFileSystem)


def content_hash(data: bytes) -> str:
    """A hash that names this content and no other."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_bytes(uri: str) -> bytes:
    """The whole of one file."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "read"):
        content: bytes = fs.cat_file(path)
        return content


def write_bytes(uri: str, data: bytes) -> None:
    """Create or replace one file, whole or not at all."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "write"):
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # The temporary name begins with a dot: globs and listings pass it over.
        temporary = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{uuid.uuid4().hex[:8]}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def exists(uri: str) -> bool:
    """Whether there is a file or a folder."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "look up"):
        return bool(fs.exists(path))


def remove(uri: str) -> None:
    """Delete one file; it is no error when there is none."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "remove"), contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def stat(uri: str) -> StoredFile | None:
    """One file as a listing would show it; None where there is none."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "look up"):
        try:
            return _stored_file(fs, fs.info(path), uri)
        except FileNotFoundError:
            return None


def stat_many(uris: list[str]) -> list[StoredFile | None]:
    """`stat` of many URIs at once, in their order."""
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        return list(pool.map(stat, uris))


def list_files(uri: str) -> Iterator[StoredFile]:
    """Every file below a folder or prefix, in the order of names; hidden ones are left out."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "list"):
        found: dict[str, dict[str, Any]] = fs.find(path, detail=True)
    root = path.rstrip("/") + "/"
    for key in sorted(found):
        if not _is_hidden(key.removeprefix(root)):
            yield _stored_file(fs, found[key], _uri_of(fs, key))


def list_paths(uri: str) -> list[str]:
    """Every file below a folder or prefix as its path from there, sorted; hidden ones left out."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "list"):
        found: list[str] = fs.find(path)
    root = path.rstrip("/") + "/"
    paths = (key.removeprefix(root) for key in sorted(found))
    return [relative for relative in paths if not _is_hidden(relative)]


def list_names(uri: str) -> list[str]:
    """Names directly below a folder, sorted; none where there is no folder."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "list"):
        try:
            return sorted(name_of(entry) for entry in fs.ls(path, detail=False))
        except FileNotFoundError:
            return []


def copy_folder(source: str, target: str) -> None:
    """Copy every file below one URI to another; the two may lie in different stores."""
    root = absolute(source).rstrip("/") + "/"
    for file in list_files(absolute(source)):
        write_bytes(join(target, file.uri.removeprefix(root)), read_bytes(file.uri))


def remove_folder(uri: str) -> None:
    """Delete a folder and all below it; it is no error when there is none."""
    fs, path = _open_filesystem(uri)
    with _named(uri, "remove"), contextlib.suppress(FileNotFoundError):
        if isinstance(fs, LocalFileSystem):
            shutil.rmtree(path)
        else:
            fs.rm(path, recursive=True)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The same store for pyarrow, and the path in it.

    Through fsspec rather than pyarrow's own S3 client, so that there is one chain of credentials
    and one behaviour under faults.
    """
    fs, path = _open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def make_folder(uri: str) -> str:
    """Create a local folder; object stores need none. Returns the URI."""
    if is_local(uri):
        with _named(uri, "create"):
            Path(absolute(uri)).mkdir(parents=True, exist_ok=True)
    return uri


def _open_filesystem(uri: str) -> tuple[Any, str]:
    try:
        # Other processes write while this one looks: a cached listing would be out of date.
        fs, path = fsspec.core.url_to_fs(absolute(uri), use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise StorageError(f"{uri}: {_one_line(error)}") from error
    return fs, path


def _is_hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _uri_of(fs: Any, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def _stored_file(fs: Any, info: dict[str, Any], uri: str) -> StoredFile:
    size = int(info["size"] if info.get("size") is not None else -1)
    etag = info.get("ETag") or info.get("etag")
    if etag:
        return StoredFile(uri, size, str(etag).strip('"'))
    if isinstance(fs, LocalFileSystem):
        # Of the file that a link leads to, which is what will be read.
        status = os.stat(info["name"])
        return StoredFile(uri, status.st_size, f"{status.st_size}-{status.st_mtime_ns}")
    modified = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return StoredFile(uri, size, f"{size}-{modified}")


@contextlib.contextmanager
def _named(uri: str, verb: str) -> Iterator[None]:
    """Turn what a backend raises into one line that names the URI."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(f"cannot {verb} {uri}: it does not exist") from error
    except Exception as error:  # every backend has an exception tree of its own, without a base
        raise StorageError(f"cannot {verb} {uri}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300]
