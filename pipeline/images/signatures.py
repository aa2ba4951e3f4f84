"""What a file is, by its first bytes: a format that is read, or one of which we say what to do."""

import re

from pipeline.errors import RejectError

_READ = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # by the sizes its header may have
    "WebP": rb"RIFF.{4}WEBP",
    "JPEG 2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
}
READABLE = "PNG, JPEG, TIFF, BMP, WebP or JPEG 2000"
"""In words: what a file of pixels may be."""

_TO_ZARR = "convert it to OME-Zarr with bioformats2raw"
_TO_PNG, _TO_TIFF = "convert it to PNG", "convert it to TIFF"
_FRAMES = "take its frames out as PNG or JPEG, as ffmpeg does"
_UNPACK = "unpack it"
_OTHERS = (
    (rb"ZISRAWFILE", "a Zeiss CZI", _TO_ZARR),
    (rb"\xda\xce\xbe\x0a", "a Nikon ND2", _TO_ZARR),
    (rb"\x70\0\0\0.{4}\x2a", "a Leica LIF", _TO_ZARR),
    (rb"\xd0\xcf\x11\xe0", "an OLE file, such as Olympus OIB or Zeiss ZVI", _TO_ZARR),
    (rb".{128}DICM", "DICOM", _TO_TIFF),
    (rb".{344}n[+i]1\0", "NIfTI", "save its planes as TIFF"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5", _TO_TIFF),
    (rb"\x93NUMPY", "a NumPy array", _TO_TIFF),
    (rb"GIF8", "a GIF", _TO_PNG),
    (rb".{4}ftyp(hei|hev|mif1|msf1|avi)", "HEIC or AVIF", _TO_PNG),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _TO_PNG),
    (rb".{4}ftyp|RIFF.{4}AVI |\x1a\x45\xdf\xa3", "a video", _FRAMES),
    (rb"PK\x03\x04", "a ZIP archive", _UNPACK),
    (rb"\x1f\x8b", "packed by gzip", _UNPACK),
    (rb"%PDF-", "a PDF", _TO_PNG),
    (rb"(\xef\xbb\xbf)?\s*<[!?a-zA-Z]", "HTML or XML", "perhaps a server's message of an error"),
)
"""Signature, what it is, and what to do with it."""


def detect_format(data: bytes) -> str:
    """The key in `reader.DECODERS` of what begins with these bytes, a few hundred or all.

    Raises:
        RejectError: empty, or unknown_format.
    """
    if not data:
        raise RejectError("empty", "the file has no bytes")
    for kind, signature in _READ.items():
        if re.match(signature, data, re.DOTALL):
            return kind
    for signature, what, advice in _OTHERS:
        if re.match(signature, data, re.DOTALL):
            raise RejectError("unknown_format", f"is {what}, which is not read; {advice}")
    raise RejectError("unknown_format", f"is not a {READABLE} file")
