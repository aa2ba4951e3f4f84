"""Walk local folders: links to files are followed, links to folders too, but never in a loop."""

import errno
import os
from collections.abc import Iterator

from pipeline.storage.faults import named
from pipeline.storage.files import StoredFile, local_version


def walk(root: str, uri: str) -> Iterator[StoredFile]:
    """Every file below a folder, streamed; `uri` is what errors name.

    A link that leads nowhere is listed with size -1, so that it is not passed over in silence.
    """
    for entry in _entries(root, uri):
        with named(entry.path, "look up"):
            try:
                status = entry.stat()
            except OSError as error:
                if not _leads_nowhere(error):
                    raise
                if entry.is_symlink():
                    yield StoredFile(entry.path, -1, "missing")
                continue  # else it was removed since
        yield StoredFile(entry.path, status.st_size, local_version(status))
    if os.path.isfile(root):
        status = os.stat(root)
        yield StoredFile(root, status.st_size, local_version(status))


def paths(root: str, uri: str) -> Iterator[str]:
    """Every file below a folder as its path from there; no file is looked at."""
    start = len(root.rstrip("/")) + 1
    return (entry.path[start:] for entry in _entries(root, uri))


def names(folder: str) -> list[str]:
    """Names directly below a folder; none where it is a file."""
    try:
        return os.listdir(folder)
    except NotADirectoryError:
        return []


def _entries(root: str, uri: str) -> Iterator["os.DirEntry[str]"]:
    # Each folder with those above it, as (device, inode): a link back to one of them is a loop.
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        entries, here = _read_folder(folder, uri)
        if here in above:
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                waiting.append((entry.path, above | {here}))
            else:
                yield entry


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with named(entry.path, "look up"):
        try:
            return entry.is_dir()
        except OSError as error:
            if _leads_nowhere(error):
                return False
            raise


def _leads_nowhere(error: OSError) -> bool:
    """Also a link to itself."""
    return isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP


def _read_folder(folder: str, uri: str) -> tuple[list["os.DirEntry[str]"], tuple[int, int]]:
    with named(uri if folder == uri else folder, "list"):
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                return list(entries), (status.st_dev, status.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            return [], (-1, -1)  # removed since, or there never was one
