"""Walk an S3 prefix: several threads, pages of a thousand keys, nothing held but pages.

A *level* is listed with a delimiter, which tells its files and the prefixes below. While they are
few, each prefix is a level again, so that there is something to share out. Where they are many,
runs of neighbouring prefixes are listed flat, keys in order: one request gives a thousand files
even when each folder holds one. A flat prefix of any size is one chain of pages.
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.storage.door import uri_of
from pipeline.storage.files import StoredFile, version_of
from pipeline.storage.retrying import retried
from pipeline.storage.uris import is_hidden

THREADS = 16
DEEPEST = 4
"""Levels below the root that are still listed with a delimiter."""
_WAITING_PAGES = 2 * THREADS

Page = dict[str, Any]


@dataclass(frozen=True)
class _Level:
    prefix: str
    depth: int


@dataclass(frozen=True)
class _Run:
    """What lies below the prefixes `first` to `last` of one level, inclusive."""

    level: str
    first: str
    last: str


def walk(fs: Any, path: str, uri: str) -> Iterator[StoredFile]:
    """Every file below an S3 path, streamed; `uri` is what errors name."""
    listing = _Listing(fs, *_folder(fs, path), uri)
    try:
        yield from listing.files()
    finally:
        listing.stop()


def names(fs: Any, path: str, uri: str) -> Iterator[str]:
    """Names directly below an S3 path.

    s3fs, where there are none, goes on to list the folder above, which may hold millions and
    which a role need not be allowed to list.
    """
    bucket, root = _folder(fs, path)
    for page in _pages(fs, uri, Bucket=bucket, Prefix=root, Delimiter="/"):
        found = [entry["Key"] for entry in page.get("Contents", [])]
        found += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        # The key that is the prefix itself is the marker of the folder.
        yield from (key.removeprefix(root).rstrip("/") for key in found if key != root)


def _folder(fs: Any, path: str) -> tuple[str, str]:
    """The bucket of an S3 path, and the prefix of all that lies below it."""
    bucket, key, _ = fs.split_path(path)
    return bucket, key.rstrip("/") + "/" if key.strip("/") else ""


def _pages(fs: Any, uri: str, **arguments: str) -> Iterator[Page]:
    """Of a listing; `uri` is what errors name."""

    def call() -> Page:
        page: Page = fs.call_s3("list_objects_v2", **arguments)
        return page

    while True:
        page = retried(call, uri, "list", fs, arguments["Bucket"])
        yield page
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


class _Listing:
    """Threads that list, and the queue of pages between them and the reader."""

    def __init__(self, fs: Any, bucket: str, root: str, uri: str) -> None:
        self._fs, self._bucket, self._root, self._uri = fs, bucket, root, uri
        self._base = uri_of(fs, bucket) + "/"
        self._pages: queue.Queue[list[StoredFile] | BaseException | None] = queue.Queue(
            _WAITING_PAGES
        )
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="list")
        self._lock = threading.Lock()
        self._unfinished = 0

    def files(self) -> Iterator[StoredFile]:
        self._submit(_Level(self._root, 0))
        while (page := self._pages.get()) is not None:
            if isinstance(page, BaseException):
                raise page
            yield from page

    def stop(self) -> None:
        """End the threads, also when the reader has had enough."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, task: _Level | _Run) -> None:
        with self._lock:
            self._unfinished += 1
        self._pool.submit(self._work, task)

    def _work(self, task: _Level | _Run) -> None:
        try:
            self._list_level(task) if isinstance(task, _Level) else self._list_run(task)
        except BaseException as error:
            self._put(error)
        with self._lock:
            self._unfinished -= 1
            done = self._unfinished == 0
        if done:
            self._put(None)

    def _list_level(self, level: _Level) -> None:
        for page in self._request(Prefix=level.prefix, Delimiter="/"):
            if self._stopped.is_set():
                return
            self._put(self._files_of(page.get("Contents", [])))
            prefixes = [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
            # Nothing below a hidden folder is listed, so there is no need to look.
            prefixes = [p for p in prefixes if not is_hidden(p.removeprefix(level.prefix))]
            self._share_out(level, prefixes, whole=not page.get("IsTruncated"))

    def _share_out(self, level: _Level, prefixes: list[str], whole: bool) -> None:
        if whole and len(prefixes) < THREADS and level.depth < DEEPEST:
            for prefix in prefixes:
                self._submit(_Level(prefix, level.depth + 1))
            return
        # Pages of a long level are runs enough: a page in many would be many requests.
        size = max(1, -(-len(prefixes) // THREADS)) if whole else 1000
        for start in range(0, len(prefixes), size):
            run = prefixes[start : start + size]
            self._submit(_Run(level.prefix, run[0], run[-1]))

    def _list_run(self, run: _Run) -> None:
        for page in self._request(Prefix=run.level, StartAfter=run.first):
            if self._stopped.is_set():
                return
            entries = page.get("Contents", [])
            # Files of the level itself are told by its own listing.
            mine = [
                entry
                for entry in entries
                if (entry["Key"] < run.last or entry["Key"].startswith(run.last))
                and "/" in entry["Key"][len(run.level) :]
            ]
            self._put(self._files_of(mine))
            end = entries[-1]["Key"] if entries else run.first
            if end > run.last and not end.startswith(run.last):
                return

    def _request(self, **arguments: str) -> Iterator[Page]:
        return _pages(self._fs, self._uri, Bucket=self._bucket, **arguments)

    def _files_of(self, entries: list[dict[str, Any]]) -> list[StoredFile]:
        start = len(self._root)
        return [
            StoredFile(self._base + entry["Key"], int(entry["Size"]), version_of(entry))
            for entry in entries
            # A key that ends in a slash is the marker of a folder.
            if not entry["Key"].endswith("/") and not is_hidden(entry["Key"][start:])
        ]

    def _put(self, page: list[StoredFile] | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                return self._pages.put(page, timeout=0.5)
            except queue.Full:
                continue
