"""JPEG, which is refused where its decoder had to make pixels up; kinds that are not supported."""

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.errors import RejectError

_COLOURS = {"L": "GRAY", "RGB": "RGB"}
DECODED = frozenset(_COLOURS)
"""Pillow's modes of the images that are decoded here."""
_DAMAGE = re.compile(
    "premature end|bad huffman code|found marker|bytes before marker 0x(?!d9)", re.I
)
"""In what libjpeg warns of. Bytes before the end (d9) are how some cameras fill their files."""
_END = b"\xff\xd9"

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers: ITU T.81, table B.1
_JPEG_LS = 0xF7  # ITU T.87


def decode_jpeg(data: bytes, mode: str) -> NDArray[np.uint8]:
    """(H, W, C) as Pillow decodes it, of one of the modes in `DECODED`.

    Raises:
        RejectError: corrupt: its pixels can't be told, or not all of them.
    """
    if not data.endswith(_END):
        data += _END  # that this is missing is no damage, and would be taken for one
    pixels: NDArray[np.uint8]
    try:
        pixels = simplejpeg.decode_jpeg(data, _COLOURS[mode])
    except ValueError as error:
        what = str(error).removeprefix("Corrupt JPEG data: ")
        if _DAMAGE.search(what):
            raise RejectError("corrupt", f"damaged JPEG: {what}") from error
        pixels = simplejpeg.decode_jpeg(data, _COLOURS[mode], strict=False)
    return pixels


def unsupported_kind(data: bytes) -> str | None:
    """What a JPEG that Pillow does not know is, if it is one; by the header of its frame."""
    place = 2
    while place + 5 <= len(data) and data[place] == 0xFF:
        marker, bits = data[place + 1], data[place + 4]
        if marker == _JPEG_LS:
            return "a JPEG-LS"
        if marker in _FRAMES:
            return None if bits == 8 else f"a JPEG of {bits} bits"
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
