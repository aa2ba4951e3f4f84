"""Everything below a folder or prefix."""

from collections.abc import Iterator
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import MissingError
from pipeline.storage import local_listing, s3_listing
from pipeline.storage.door import is_s3, open_filesystem, uri_of
from pipeline.storage.files import StoredFile, size_of, stat, version_of
from pipeline.storage.retrying import retried
from pipeline.storage.uris import is_hidden, name_of


def walk(uri: str) -> Iterator[StoredFile]:
    """Every file below a folder or prefix, as it is found, in no particular order.

    Hidden files are left out. What is held in memory are pages of the listing, on local disks
    and on S3; other stores are listed as fsspec does it, at once. A URI of a single file gives
    that file, one of nothing gives none.

    Raises:
        StorageError: something below could not be listed.
    """
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        yield from local_listing.walk(path.rstrip("/") or "/", uri)
        return
    found = False
    for file in _walk_store(fs, path, uri):
        found = True
        yield file
    if not found and (single := stat(uri)) and single.size >= 0 and _is_file(fs, path, uri):
        yield single


def list_files(uri: str) -> Iterator[StoredFile]:
    """Every file below a folder or prefix, in the order of names; hidden ones are left out."""
    yield from sorted(walk(uri), key=lambda file: file.uri)


def list_paths(uri: str) -> list[str]:
    """Every file below a folder or prefix as its path from there, sorted; hidden ones left out."""
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return sorted(local_listing.paths(path.rstrip("/") or "/", uri))
    root = uri_of(fs, path.rstrip("/")) + "/"
    return sorted(file.uri.removeprefix(root) for file in _walk_store(fs, path, uri))


def list_names(uri: str) -> list[str]:
    """Names directly below a folder, sorted; none where there is no folder."""
    fs, path = open_filesystem(uri)
    try:
        if is_s3(fs):
            return sorted(s3_listing.names(fs, path, uri))
        if isinstance(fs, LocalFileSystem):
            return sorted(retried(lambda: local_listing.names(path), uri, "list"))
        entries: list[str] = retried(lambda: fs.ls(path, detail=False), uri, "list", fs, path)
    except MissingError:
        return []
    return sorted(name_of(entry) for entry in entries)


def _walk_store(fs: Any, path: str, uri: str) -> Iterator[StoredFile]:
    if is_s3(fs) and not fs.version_aware:
        return s3_listing.walk(fs, path, uri)
    return _find(fs, path, uri)


def _find(fs: Any, path: str, uri: str) -> Iterator[StoredFile]:
    found: dict[str, dict[str, Any]] = retried(
        lambda: fs.find(path, detail=True), uri, "list", fs, path
    )
    root = path.rstrip("/") + "/"
    for key, info in found.items():
        if key.startswith(root) and not is_hidden(key.removeprefix(root)):
            yield StoredFile(uri_of(fs, key), size_of(info), version_of(info))


def _is_file(fs: Any, path: str, uri: str) -> bool:
    return bool(retried(lambda: fs.isfile(path), uri, "look up", fs, path))
