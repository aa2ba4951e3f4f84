"""What a URI is made of. Nothing here looks at a file."""

import hashlib
import os


def absolute(uri: str) -> str:
    """Local paths made absolute, so that they mean the same in every process."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


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
