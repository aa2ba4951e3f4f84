"""Versions and sizes of listed images, as the store has them where the listing says none.

A Zarr is a folder, and one image. Its version is that of its metadata: who changes chunks and
nothing else is not noticed.
"""

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline import storage
from pipeline.errors import CredentialsError, StorageError, UnavailableError

MISSING = "missing"
"""The version of a listed image that is not there; reading it will say so."""
UNKNOWN = "unknown"
"""The version of one that can't be looked up, such as where that is forbidden; reading says why."""
_THREADS = 16
_LOOKED_UP = 4096
"""URIs that are looked up together."""
_ZARR_METADATA = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


class LookUp:
    """Of one walk through a collection."""

    def __init__(self) -> None:
        self._answered = False

    def complete(
        self, uris: pa.Array, version: pa.Array, size: pa.Array
    ) -> tuple[pa.Array, pa.Array]:
        """Versions and sizes of all, where there is a null in the place of a version.

        An image that can't be looked up costs no other; where none can, it is not the image.

        Raises:
            StorageError: the store does not answer, or has not once said anything of an image.
        """
        versions, sizes, names = version.to_pylist(), size.to_pylist(), uris.to_pylist()
        unknown = [row for row, value in enumerate(versions) if value is None]
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(unknown), _LOOKED_UP):
                rows = unknown[start : start + _LOOKED_UP]
                found = list(pool.map(_look_up, [names[row] for row in rows]))
                told = [one for one in found if not isinstance(one, StorageError)]
                self._answered = self._answered or bool(told)
                for row, one in zip(rows, found, strict=True):
                    if isinstance(one, StorageError):
                        if not self._answered:
                            raise one
                        one = UNKNOWN, -1
                    versions[row], sizes[row] = one
        return pa.array(versions, pa.string()), pa.array(sizes, pa.int64())


def _look_up(uri: str) -> tuple[str, int] | StorageError:
    """Version and size, -1 where there is none; or what is wrong with this one alone."""
    try:
        if uri.lower().endswith(".zarr"):
            return _zarr_version(uri), -1
        file = storage.stat(uri)
    except (CredentialsError, UnavailableError):
        raise
    except StorageError as error:
        return error
    return (file.version, file.size) if file else (MISSING, -1)


def _zarr_version(uri: str) -> str:
    """Of the documents that say what it holds."""
    found = [storage.stat(storage.join(uri, name)) for name in _ZARR_METADATA]
    versions = [file.version for file in found if file]
    return storage.content_hash("\0".join(versions).encode()) if versions else MISSING
