"""Whether a store that does not give an image gives others: then it is the image."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.tables.dataset import OutputDataset

_SHARDS, _IMAGES = 16, 3  # to look into, and to read from: each may take minutes to fail


def gives_others(dataset: str, uri: str) -> bool:
    """Whether the place of an image gives now what was once read from there.

    Args:
        dataset: where the images are that were read before.
        uri: of the image.
    """
    with suppress(StorageError):  # where the dataset can't be had either, the store may be away
        for other in islice(_read_before(dataset, uri), _IMAGES):
            with suppress(StorageError):
                storage.read_ranges(other, [(0, 1)])
                return True
    return False


def _read_before(dataset: str, uri: str) -> Iterator[str]:
    """Other images of the same bucket, or of the local disk."""
    now = OutputDataset.open(dataset).snapshot()
    for batch in now.only(islice(now.shards, _SHARDS)).scan("images", ["uri"]):
        for other in batch["uri"].to_pylist():
            if other != uri and _place(other) == _place(uri):
                yield other


def _place(uri: str) -> str:
    scheme, mark, path = uri.partition("://")
    return f"{scheme}://{path.partition('/')[0]}" if mark else ""
