"""JPEG 2000, in the boxes of a JP2 or bare (ITU-T T.800, annexes A and I).

OpenJPEG decodes it, and refuses what is cut short. What its headers say is read here: the size,
before any pixel is decoded; colours that would be shown wrongly; which channels are alpha.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import imagecodecs

from pipeline.errors import RejectError
from pipeline.records import Pixels

_CODESTREAM = b"\xff\x4f\xff\x51"
_OTHER_COLOURS = {12: "CMYK", 14: "CIELAB"}  # EnumCS; YCbCr is made RGB by the decoder
_OTHER_PROFILES = {b"CMYK": "CMYK", b"Lab ": "CIELAB"}  # ICC's colour spaces
_ALPHA = (1, 2)  # channel types: opacity, premultiplied opacity


@dataclass(frozen=True)
class _Boxes:
    """What the boxes around a codestream say."""

    codestream: int
    """Where it begins."""
    colours: str = ""
    """Those that are not supported."""
    alphas: int = 0
    """Channels of opacity; OpenJPEG puts them last."""


def decode_jpeg2000(data: bytes, admit: Callable[[int, int], None], as_indices: bool) -> Pixels:
    """(H, W, C) as stored, but for a palette, which is looked up, and alpha, which is dropped."""
    bare = data.startswith(_CODESTREAM)
    boxes = _Boxes(0) if bare else _read_boxes(data)
    height, width = _size(data, boxes.codestream)
    admit(height, width)
    if boxes.colours:
        raise RejectError(
            "layout", f"has {boxes.colours} colours; gray, RGB and palettes are supported"
        )
    pixels: Pixels = imagecodecs.jpeg2k_decode(data)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels[..., : pixels.shape[-1] - boxes.alphas]


def _size(data: bytes, start: int) -> tuple[int, int]:
    """Height and width, by the marker SIZ that a codestream begins with."""
    if data[start : start + 4] != _CODESTREAM:
        raise RejectError("corrupt", "damaged JPEG 2000: its codestream has no header")
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    kinds = {data[i : i + 3] for i in range(start + 42, start + 42 + 3 * channels, 3)}
    if len(kinds) > 1:
        raise RejectError("layout", "has channels of different sizes or numbers of bits")
    return y1 - y0, x1 - x0


def _read_boxes(data: bytes) -> _Boxes:
    colours, alphas = "", 0
    for kind, start, end in _walk(data, 0, len(data)):
        if kind == b"jp2c":
            return _Boxes(start, colours, alphas)
        if kind != b"jp2h":
            continue
        for inner, first, last in _walk(data, start, end):
            body = data[first:last]
            if inner == b"colr" and not colours:
                colours = _other_colours(body)
            elif inner == b"cdef":
                types = [kind for _, kind, _ in struct.iter_unpack(">3H", body[2:])]
                alphas = sum(kind in _ALPHA for kind in types)
    raise RejectError("corrupt", "damaged JPEG 2000: the file ends before its pixels begin")


def _other_colours(body: bytes) -> str:
    """What a colour specification says, where that is not supported; by number or ICC profile."""
    if body[0] == 1:
        return _OTHER_COLOURS.get(int.from_bytes(body[3:7], "big"), "")
    return _OTHER_PROFILES.get(body[19:23], "")


def _walk(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places: kind, and where the body begins and ends."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = start + length if length else end
        if stop < body:
            return
        yield kind, body, min(stop, end)
        start = stop
