"""Bytes → pixels, strictly: a file that is not whole and well-formed is refused, never guessed at.

PNG and BMP go through Pillow, which reports truncation; JPEG through simplejpeg, which reports all
damage that it sees (see `jpeg`); what Pillow would change (PNG of 16 bits and colours) or misread
(some BMP), WebP and JPEG 2000 through imagecodecs; TIFF through tifffile (see `tiff`). Adding a
format is one function, a line in `DECODERS` and its signature.
What this module does not know: where bytes come from.
"""

import io
import struct
from collections.abc import Callable
from pathlib import PurePosixPath

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.config import ReaderSettings
from pipeline.errors import RejectError
from pipeline.images.damage import refused
from pipeline.images.jpeg import DECODED, decode_jpeg, unsupported_kind
from pipeline.images.jpeg2000 import decode_jpeg2000
from pipeline.images.signatures import detect_format
from pipeline.images.tiff import decode_tiff, tiff_has_palette
from pipeline.records import Pixels

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gtiff": "TIFF",
    ".btf": "TIFF",  # BigTIFF
    ".svs": "TIFF",  # Aperio's slides
    ".ndpi": "TIFF",  # Hamamatsu's
    ".scn": "TIFF",  # Leica's
    ".qptiff": "TIFF",  # Akoya's
    ".stk": "TIFF",  # MetaMorph
    ".lsm": "TIFF",  # Zeiss
    ".bmp": "BMP",
    ".webp": "WebP",
    ".jp2": "JPEG 2000",
    ".j2k": "JPEG 2000",
}
"""File name suffix → format; also what counts as an image in a listing."""

_WITH_ALPHA = ["PNG", "TIFF", "BMP", "WEBP", "JPEG2000"]
_READ_BY_WINDOW = {"TIFF"}
"""Formats whose size need not be a limit: see `pipeline.images.windows`."""

Admit = Callable[[int, int], None]
"""Told height and width before any pixel is decoded; raises where they are too many."""


def decode_image(
    data: bytes,
    name: str,
    settings: ReaderSettings,
    *,
    as_indices: bool = False,
    admit: Admit | None = None,
) -> Pixels:
    """Decode one file to (H, W, C) in its own integer or float type; alpha is dropped.

    Args:
        data: the whole file.
        name: its name or URI, of which the suffix is held against the content.
        settings: what is accepted.
        as_indices: for label maps: values as they are stored, neither looked up in the file's
            palette, nor spread from 1, 2 or 4 bits to 8, nor inverted.
        admit: asked instead of `settings.max_pixels` about formats that are read by window where
            they are large, and after it about others. What it raises goes through.

    Raises:
        RejectError: with a code: empty, unknown_format, misnamed, corrupt, too_large, layout.
    """
    kind = detect_format(data)
    expected = FORMATS.get(PurePosixPath(name).suffix.lower())
    if expected not in (None, kind) and not settings.allow_misnamed:
        raise RejectError(
            "misnamed",
            f"is named as {expected} but holds {kind}; rename it or set reader.allow-misnamed",
        )
    limits = [] if admit is None else [admit]
    if admit is None or kind not in _READ_BY_WINDOW:
        limits.insert(0, limited(settings.max_pixels))

    def admitted(height: int, width: int) -> None:
        for limit in limits:
            limit(height, width)

    with refused(f"damaged {kind}"):
        pixels = DECODERS[kind](data, admitted, as_indices)
    check_numbers(pixels.dtype)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * (1 if as_indices else 255)
    if 0 in pixels.shape:
        raise RejectError("layout", "has no pixels")
    return pixels


def has_palette(data: bytes) -> bool:
    """Whether a file that can be decoded holds places in a palette of its own."""
    kind = detect_format(data)
    if kind == "PNG":
        return data[25] == 3  # colour type (PNG specification, 11.2.1)
    if kind == "BMP":
        with _open_with_pillow(data) as image:
            return image.mode == "P"
    return kind == "TIFF" and tiff_has_palette(data)


def alpha_of(data: bytes) -> NDArray[np.uint8] | None:
    """(H, W) opacity of a file that can be decoded; None where it has none."""
    try:
        with Image.open(io.BytesIO(data), formats=_WITH_ALPHA) as image:
            if not image.has_transparency_data:
                return None
            return np.asarray(image.convert("RGBA").getchannel("A"))
    except OSError:  # JPEG, which has none, and what only tifffile reads
        return None


def is_turned(data: bytes) -> bool:
    """Whether a photograph's EXIF says to show it turned or mirrored; pixels are read as stored."""
    if detect_format(data) not in ("JPEG", "WebP"):
        return False
    with Image.open(io.BytesIO(data), formats=["JPEG", "WEBP"]) as image:
        return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)


def check_numbers(dtype: np.dtype[np.generic]) -> None:
    """Pixels are integers, floats or bits.

    Raises:
        RejectError: they are complex, or no numbers.
    """
    if dtype.kind not in "uifb":
        raise RejectError("layout", f"pixels of type {dtype} are not supported")


def limited(max_pixels: int) -> Admit:
    """Refuses images of more pixels."""

    def admit(height: int, width: int) -> None:
        if height * width > max_pixels:
            raise RejectError(
                "too_large",
                f"{height} x {width} pixels are over the limit of {max_pixels:,}; "
                "raise reader.max-pixels if the file is to be trusted",
            )

    return admit


def _decode_with_pillow(data: bytes, admit: Admit, as_indices: bool) -> Pixels:
    Image.MAX_IMAGE_PIXELS = None  # the limit is ours, checked before any pixel is decoded
    with _open_with_pillow(data) as image:
        admit(image.height, image.width)
        if image.format == "PNG" and _png_is_deep_colour(data):
            return _drop_alpha(imagecodecs.png_decode(data))
        if image.format == "JPEG" and image.mode in DECODED:
            return decode_jpeg(data, image.mode)
        if image.format == "BMP" and _bmp_is_misread(image, data):
            return _with_channel_axis(imagecodecs.bmp_decode(data, asrgb=not as_indices))
        image.load()
        if as_indices and image.mode == "P":
            return _with_channel_axis(np.asarray(image))
        if image.mode == "P" and np.asarray(image).max() >= len(image.getpalette() or ()) // 3:
            raise RejectError("corrupt", f"damaged {image.format}: has lost colours of its palette")
        if as_indices and image.mode == "L" and image.format == "PNG":
            # Pillow spreads gray of 2 or 4 bits over 0 to 255: multiples of 85 or 17.
            return _with_channel_axis(np.asarray(image)) // {2: 85, 4: 17}.get(data[24], 1)
        if image.mode in ("1", "L", "I;16", "I", "F", "RGB"):
            return _with_channel_axis(np.asarray(image))
        if image.mode in ("LA", "La"):
            return _with_channel_axis(np.asarray(image.convert("L")))
        return np.asarray(image.convert("RGB"))


def _decode_webp(data: bytes, admit: Admit, as_indices: bool) -> Pixels:
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise RejectError("corrupt", "damaged WebP: the file ends before its pixels do")
    with _open_with_pillow(data) as image:
        admit(image.height, image.width)
        frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise RejectError("layout", f"is an animation of {frames} frames; one picture is supported")
    return _drop_alpha(imagecodecs.webp_decode(data))


def _open_with_pillow(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "BMP", "WEBP"])
    except UnidentifiedImageError as error:  # says nothing but the address of the bytes
        kind = unsupported_kind(data)
        if kind is not None:
            raise RejectError("layout", f"is {kind}, which is not supported") from error
        name = detect_format(data)
        raise RejectError("corrupt", f"damaged {name}: its header is not that of one") from error
    except OSError as error:
        if str(error).startswith("Unsupported BMP bitfields"):
            what = "has numbers of bits that are not supported in a BMP; convert it to PNG"
            raise RejectError("layout", what) from error
        raise


def _png_is_deep_colour(data: bytes) -> bool:
    """16 bits a channel and more than one channel, by the header (PNG specification, 11.2.1)."""
    depth, colour_type = struct.unpack(">BB", data[24:26])
    return depth == 16 and colour_type in (2, 4, 6)


def _bmp_is_misread(image: Image.Image, data: bytes) -> bool:
    """Whether Pillow takes the numbers of a gray palette for bits, or for bytes, that they are not.

    It does where the palette has fewer colours than fit, but for run lengths.
    """
    place = 24 if data[14] == 12 else 28  # by the header's length
    bits = int.from_bytes(data[place : place + 2], "little")
    expected = {"1": 1, "L": 8}.get(image.mode, bits)
    return bits != expected and image.info.get("compression") == 0


def _drop_alpha(pixels: Pixels) -> Pixels:
    pixels = _with_channel_axis(pixels)
    return pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels


def _with_channel_axis(pixels: NDArray[np.generic]) -> Pixels:
    return pixels[..., None] if pixels.ndim == 2 else pixels


DECODERS: dict[str, Callable[[bytes, Admit, bool], Pixels]] = {
    "PNG": _decode_with_pillow,
    "JPEG": _decode_with_pillow,
    "TIFF": decode_tiff,
    "BMP": _decode_with_pillow,
    "WebP": _decode_webp,
    "JPEG 2000": decode_jpeg2000,
}
