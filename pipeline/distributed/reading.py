"""Files → pixels of a shard's images, and what is the fault of whom when that fails."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline import storage
from pipeline.config import PredictSettings, ReaderSettings
from pipeline.distributed.blocks import ReadImage
from pipeline.distributed.failures import ShardTooLarge, ShardUnreadable
from pipeline.errors import (
    CredentialsError,
    ForbiddenError,
    IncompleteError,
    MissingError,
    RejectError,
    StorageError,
)
from pipeline.images.lookup import MISSING
from pipeline.images.reader import Admit, decode_image
from pipeline.images.windows import is_zarr
from pipeline.records import Reject, Shard, SourceImage

_READ_THREADS = 8  # of one task: object stores answer slowly, but many at once
_MOST_PIXELS = 64 << 20  # of all images of a shard
_LARGE_FILE = 64 << 20  # bytes; such a file is not fetched whole to find out how large its image is
_LONGEST = 1 << 16  # pixels of a side


def read_images(images: Sequence[ReadImage], settings: PredictSettings) -> tuple[ReadImage, ...]:
    """The images of a shard with their pixels, or why there are none.

    Raises:
        ShardTooLarge: they are too many pixels, or one of them is.
        ShardUnreadable: the store gave none of them.
    """
    admit = _Admission(settings)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        read = partial(_read_image, reader=settings.reader, admit=admit)
        found = list(pool.map(read, images))
    return tuple(_judge_not_given(images, found))


def is_listed_large(shard: Shard, settings: PredictSettings) -> bool:
    """Whether the listing says already that a shard has an image to be worked on in parts."""
    return bool(settings.level or settings.mpp) or any(
        is_zarr(image.uri) or image.size > _LARGE_FILE for image in shard.images
    )


class _Admission:
    """Lets images in while they are small, alone and together."""

    def __init__(self, settings: PredictSettings) -> None:
        self.largest = settings.regions.large
        self.left = max(_MOST_PIXELS, self.largest)
        self.lock = threading.Lock()

    def __call__(self, height: int, width: int) -> None:
        """By what the file says of its size; called by several threads."""
        with self.lock:
            self.left -= height * width
            if height * width > self.largest or max(height, width) > _LONGEST or self.left < 0:
                raise ShardTooLarge(f"an image of {height} x {width} pixels")


def _read_image(image: ReadImage, reader: ReaderSettings, admit: Admit) -> ReadImage | StorageError:
    """What became of one image; a fault of the store is not yet the image's own.

    Raises:
        CredentialsError: no image can be had.
    """
    source = image.source
    if image.reject is not None:
        return image
    try:
        if source.version == MISSING:
            raise RejectError("not_found", "does not exist")
        data = storage.read_bytes(source.uri, source.size if source.size >= 0 else None)
        return ReadImage(source, decode_image(data, source.uri, reader, admit=admit), None)
    except CredentialsError:
        raise
    except RejectError as error:
        return rejected(source, "read", error)
    except StorageError as error:
        reason = read_reject(source, error)
        return error if reason is None else rejected(source, "read", reason)


def read_reject(source: SourceImage, error: RejectError | StorageError) -> RejectError | None:
    """What an error while reading says of the image; None where it says nothing of it."""
    if isinstance(error, RejectError):
        return error
    if isinstance(error, MissingError):
        return RejectError("not_found", "no longer exists")
    if isinstance(error, ForbiddenError):
        return RejectError("forbidden", str(error))
    if isinstance(error, IncompleteError):
        return _incomplete(source, error)
    return None


def _incomplete(source: SourceImage, error: IncompleteError) -> RejectError:
    """Of another length than was listed, again and again: was it replaced since?"""
    now = storage.stat(source.uri)
    if now is not None and now.version != source.version:
        return RejectError("changed", "was changed since it was listed; the next run will do it")
    return RejectError("incomplete", str(error))


def _judge_not_given(
    images: Sequence[ReadImage], found: Sequence[ReadImage | StorageError]
) -> Iterator[ReadImage]:
    """Faults of the store that outlasted every retry, or that none would mend: a folder, bad disk.

    Where other images of the shard could be read, the store is there, and it is the image. Where
    none could, it may be the store, and nobody's fault: the shard is tried again later.
    """
    answered = any(isinstance(one, ReadImage) and one.pixels is not None for one in found)
    for image, one in zip(images, found, strict=True):
        if isinstance(one, ReadImage):
            yield one
        elif answered:
            yield rejected(image.source, "read", RejectError("unreadable", str(one)))
        else:
            raise ShardUnreadable(str(one)) from one


def rejected(source: SourceImage, stage: str, error: RejectError) -> ReadImage:
    """An image that is a reject."""
    return ReadImage(source, None, Reject(source, stage, error.code, error.message))
