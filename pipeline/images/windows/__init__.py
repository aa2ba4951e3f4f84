"""Images that are read by window, so that their size does not matter.

A format that can be read by window is one module and one line in `open_windows`; any other image
is decoded whole, under a limit.
"""

from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.errors import RejectError
from pipeline.images.reader import FORMATS, decode_image
from pipeline.images.signatures import detect_format
from pipeline.images.windows.base import WholeImage, WindowedImage
from pipeline.images.windows.levels import FINEST, LevelChoice
from pipeline.images.windows.tiff import open_tiff

__all__ = [
    "FINEST",
    "LevelChoice",
    "WholeImage",
    "WindowedImage",
    "is_zarr",
    "open_windows",
    "read_whole",
]

_BEGINNING = 512  # bytes that tell the format
_MOST_PIXELS = 1 << 40  # a million by a million: what says to be larger is damaged


def is_zarr(uri: str) -> bool:
    """Whether a URI is that of a Zarr, which is a folder."""
    return uri.rstrip("/").lower().endswith(".zarr")


def open_windows(uri: str, choice: LevelChoice = FINEST) -> WindowedImage | None:
    """An image to be read by window; None where it has to be decoded whole.

    Raises:
        RejectError: it is damaged, or is not an image.
        StorageError: the store did not give it.
    """
    found: WindowedImage | None = None
    if is_zarr(uri):
        from pipeline.images.windows.zarr import open_zarr  # imports much that few need

        found = open_zarr(uri, choice)
    elif _may_be_tiff(uri) and _is_tiff(uri):
        found = open_tiff(uri, choice)
    if found is None:
        if choice.level or choice.mpp:
            raise RejectError("level", "has one resolution and is not read by level")
        return None
    height, width, channels = found.shape
    if 0 in found.shape:
        raise RejectError("layout", "has no pixels")
    if height * width > _MOST_PIXELS or channels > 1024:
        raise RejectError("too_large", f"says to have {height} x {width} x {channels} values")
    return found


def _may_be_tiff(uri: str) -> bool:
    """By its name, which in a manifest may be any."""
    return FORMATS.get(PurePosixPath(uri).suffix.lower(), "TIFF") == "TIFF"


def _is_tiff(uri: str) -> bool:
    with storage.open_seekable(uri) as file:
        return detect_format(file.read(_BEGINNING)[:_BEGINNING]) == "TIFF"


def read_whole(uri: str, size: int, settings: ReaderSettings) -> WholeImage:
    """An image decoded at once, under `settings.max_pixels`.

    Args:
        size: bytes, negative where they are not known.
    """
    data = storage.read_bytes(uri, size if size >= 0 else None)
    return WholeImage(decode_image(data, uri, settings))
