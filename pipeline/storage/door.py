"""A URI → the fsspec file system behind it, and the path there."""

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import StorageError
from pipeline.storage.faults import named, one_line
from pipeline.storage.uris import absolute

# A stalled store is to be noticed. s3fs nests its retries in reads, 5 × 5 by default, around
# botocore's 5: more than an hour. With two of each it is four minutes without a byte.
_S3_TRIES = 2
_S3_SCHEMES = ("s3", "s3a")
_S3_CONFIG: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 30,
    "max_pool_connections": 96,  # threads that read images, and listings beside them
}


def open_filesystem(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it.

    The scheme alone says which: a name may hold `::`, which fsspec's own way of opening a URI takes
    for the end of one and the beginning of another.

    Raises:
        StorageError: nothing here knows how to open such a URI.
    """
    uri = absolute(uri)
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    try:
        # Other processes write while this one looks: a cached listing would be out of date.
        if scheme in _S3_SCHEMES:
            fs = _open_s3(use_listings_cache=False, config_kwargs=_s3_config())
        else:
            kind: Any = fsspec.get_filesystem_class(scheme)
            fs = kind(use_listings_cache=False, **kind._get_kwargs_from_urls(uri))
        return fs, fs._strip_protocol(uri)
    except (ValueError, ImportError, OSError) as error:  # FTP and its like connect at once
        raise StorageError(f"{uri}: {one_line(error)}") from error


def _open_s3(**options: Any) -> Any:
    from pipeline.storage.s3 import PlainS3  # its import takes a second

    fs = PlainS3(**options)
    fs.retries = min(fs.retries, _S3_TRIES)
    return fs


def _s3_config() -> dict[str, Any]:
    """Our defaults of botocore's settings, below what the user has set for fsspec or botocore."""
    config = dict(_S3_CONFIG)
    if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        config["retries"] = {"total_max_attempts": _S3_TRIES}
    for protocol in _S3_SCHEMES:
        config |= fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
    return config


def is_s3(fs: Any) -> bool:
    """Whether a file system is s3fs's."""
    return "s3" in fs.protocol


def is_local(uri: str) -> bool:
    """Whether a URI lies in this machine's file system."""
    return isinstance(open_filesystem(uri)[0], LocalFileSystem)


def uri_of(fs: Any, path: str) -> str:
    """The URI of a path in a file system: local paths stay as they are."""
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def make_folder(uri: str) -> str:
    """Create a local folder; object stores need none. Returns the URI."""
    fs, path = open_filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        with named(uri, "create"):
            Path(path).mkdir(parents=True, exist_ok=True)
    return uri
