"""What a URI is made of. Nothing here looks at a file."""

import hashlib
import os

_SCHEMES = {"s3a": "s3", "gcs": "gs"}
"""Schemes of which another means the same."""


def absolute(uri: str) -> str:
    """Local paths made absolute, so that they mean the same in every process."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def canonical(uri: str) -> str:
    """The one spelling of what may be spelled in several ways.

    `file:///a/b/` and `/a/./b` → `/a/b`; `s3a://bucket/a/` and `S3://bucket/a` → `s3://bucket/a`.
    """
    scheme, mark, path = uri.partition("://")
    scheme = scheme.lower() if mark else "file"
    if scheme in ("file", "local"):
        return absolute(path if mark else uri)
    if scheme in ("http", "https"):
        return f"{scheme}://{path}"  # with a slash at its end it may be another page
    return f"{_SCHEMES.get(scheme, scheme)}://{path.rstrip('/')}"


def resolve(value: str, folder: str) -> str:
    """A URI as a file in some folder names it: whole, or relative to that folder.

    `~/a.png` lies at home, `~a.png` in that folder.
    """
    if "://" in value or value.startswith(("/", "~/")):
        return absolute(value)
    scheme, mark, path = folder.partition("://")
    if not mark:
        return absolute(f"{folder}/{value}")
    # A store takes `..` for a part of a key's name, and nothing is above the bucket.
    bucket, *parts = path.split("/")
    for part in value.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{'/'.join([bucket, *parts])}"


def join(uri: str, *parts: str) -> str:
    """A URI below another."""
    return "/".join([uri.rstrip("/"), *parts]) if parts else uri


def name_of(uri: str) -> str:
    """The last part of a URI: `s3://b/a/x.png` → `x.png`."""
    return uri.rstrip("/").rpartition("/")[2]


def is_hidden(relative: str) -> bool:
    """Whether a part of a relative path begins with a dot, as temporary files' names do."""
    return any(part.startswith(".") for part in relative.split("/"))


def content_hash(data: bytes) -> str:
    """A hash that names this content and no other."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
