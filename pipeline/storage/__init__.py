"""The only door to files and object stores.

A URI is a local path, or has a scheme that fsspec knows (`s3://bucket/key`). Credentials come from
the backend's own chain (environment, profile, role), never from settings.

    uris.py        what a URI is made of
    door.py        a URI → the file system behind it, and the path there; s3.py: where it is S3
    faults.py      what a backend raises → one of our errors, in one line
    retrying.py    which of them are tried again, and how long
    files.py       read, write, look up and remove
    ranges.py      parts of files
    arrow.py       files for pyarrow; patient.py: for those who end at the first fault
    streams.py     files that are written as their content comes
    exclusive.py   create a file, with one winner
    writable.py    whether a place can be written to
    unfinished.py  what local writes that never ended have left
    listing.py     everything below a folder or prefix; s3_listing.py, local_listing.py: how
"""

from pipeline.storage.arrow import arrow_filesystem
from pipeline.storage.door import is_local, make_folder
from pipeline.storage.exclusive import create_bytes
from pipeline.storage.faults import named, of_content
from pipeline.storage.files import (
    StoredFile,
    copy_folder,
    exists,
    read_bytes,
    remove,
    remove_folder,
    remove_many,
    stat,
    stat_many,
    write_bytes,
)
from pipeline.storage.listing import list_files, list_names, list_paths, walk
from pipeline.storage.patient import patient_filesystem
from pipeline.storage.ranges import open_seekable, read_ranges
from pipeline.storage.retrying import outlasting
from pipeline.storage.streams import open_file, open_output
from pipeline.storage.unfinished import unfinished_files
from pipeline.storage.uris import absolute, canonical, content_hash, join, name_of, resolve
from pipeline.storage.writable import check_writable

__all__ = [
    "StoredFile",
    "absolute",
    "arrow_filesystem",
    "canonical",
    "check_writable",
    "content_hash",
    "copy_folder",
    "create_bytes",
    "exists",
    "is_local",
    "join",
    "list_files",
    "list_names",
    "list_paths",
    "make_folder",
    "name_of",
    "named",
    "of_content",
    "open_file",
    "open_output",
    "open_seekable",
    "outlasting",
    "patient_filesystem",
    "read_bytes",
    "read_ranges",
    "remove",
    "remove_folder",
    "remove_many",
    "resolve",
    "stat",
    "stat_many",
    "unfinished_files",
    "walk",
    "write_bytes",
]
