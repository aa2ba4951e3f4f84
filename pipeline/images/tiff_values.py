"""What the numbers of a TIFF say: white is high, palettes are looked up, alpha is dropped.

All that this takes from the file is looked up while the file is open: windows are shown later.

Legend: H height, W width, C channels.
"""

from dataclasses import dataclass

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from pipeline.errors import RejectError
from pipeline.records import Pixels

_OTHER_COLOURS = {8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32844: "LogL", 32845: "LogLuv"}
_INK_SET, _CMYK = 332, 1  # tag, and its value where the file says none
_ALPHA = (1, 2)  # ExtraSamples: associated, unassociated; 0 is anything else
_COEFFICIENTS, _REFERENCE = 529, 532  # tags: YCbCrCoefficients, ReferenceBlackWhite
_LUMA = (0.299, 0.587, 0.114)
_CODES = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


@dataclass(frozen=True)
class _Luminance:
    """YCbCr as RGB, in the words of TIFF 6.0, section 21."""

    zero: NDArray[np.float32]
    """(3,) what stands for no Y, Cb and Cr."""
    matrix: NDArray[np.float32]
    """(3, 3) from them to red, green and blue."""

    @classmethod
    def of(cls, page: tifffile.TiffPage) -> "_Luminance":
        red, green, blue = _fractions(page, _COEFFICIENTS, _LUMA)
        codes = _fractions(page, _REFERENCE, _CODES).reshape(3, 2)
        matrix = np.array(
            [
                [1, 0, 2 - 2 * red],
                [1, -blue * (2 - 2 * blue) / green, -red * (2 - 2 * red) / green],
                [1, 2 - 2 * blue, 0],
            ]
        )
        scale = np.array([255, 127, 127]) / (codes[:, 1] - codes[:, 0])
        return cls(codes[:, 0].astype(np.float32), (matrix * scale).astype(np.float32))

    def as_rgb(self, pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
        """(H, W, 3) of 8 bits."""
        found = (pixels.astype(np.float32) - self.zero) @ self.matrix.T
        return np.rint(found).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Values:
    """How the numbers of a page become intensities."""

    bits: int
    """Of a number, as stored."""
    white_is_low: bool
    palette: NDArray[np.uint8] | None
    """(N, 3) the colour of each number."""
    luminance: _Luminance | None
    alpha: tuple[int, ...]
    """Which of the samples of a pixel."""
    samples: int
    """Of a pixel, as stored."""

    @classmethod
    def of(cls, page: tifffile.TiffPage, axes: str) -> "Values":
        """Of a page whose file is open.

        Args:
            axes: of its series, in tifffile's letters.

        Raises:
            RejectError: it has colours that are not supported, or has lost its palette.
        """
        photometric, bits = page.photometric, page.bitspersample
        name = _OTHER_COLOURS.get(int(photometric))
        if photometric == PHOTOMETRIC.SEPARATED and page.tags.valueof(_INK_SET, _CMYK) == _CMYK:
            name = "CMYK"
        if name:
            raise RejectError("layout", f"has {name} colours; gray, RGB and palettes are supported")
        white_is_low = photometric == PHOTOMETRIC.MINISWHITE
        if white_is_low and page.dtype is not None and page.dtype.kind not in "uib":
            raise RejectError("layout", f"says that white is low, of numbers of type {page.dtype}")
        return cls(
            bits=bits if isinstance(bits, int) else 8 * np.dtype(page.dtype).itemsize,
            white_is_low=white_is_low,
            palette=_palette(page) if photometric == PHOTOMETRIC.PALETTE else None,
            luminance=_luminance(page),
            alpha=_alpha(page, axes),
            samples=page.samplesperpixel,
        )

    def shown(self, pixels: NDArray[np.generic]) -> Pixels:
        """(H, W, C) as stored → intensities."""
        if self.palette is not None:
            numbers = pixels[..., 0]
            return self.palette[numbers.view(np.uint8) if numbers.dtype == bool else numbers]
        if self.white_is_low:
            pixels = self._inverted(pixels)
        if pixels.dtype == bool:
            pixels = pixels.astype(np.uint8) * 255
        if self.luminance is not None:
            pixels = self.luminance.as_rgb(pixels)
        if self.alpha and pixels.shape[-1] == self.samples:
            pixels = np.delete(pixels, self.alpha, axis=-1)
        return np.ascontiguousarray(pixels)

    def _inverted(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        inverted: NDArray[np.generic]
        if pixels.dtype.kind == "u":
            inverted = np.subtract((1 << self.bits) - 1, pixels, dtype=pixels.dtype)
        else:  # bits, and numbers with a sign: the least becomes the greatest
            inverted = np.invert(pixels)
        return inverted


def _palette(page: tifffile.TiffPage) -> NDArray[np.uint8]:
    colours = page.colormap
    if colours is None:
        raise RejectError("corrupt", "damaged TIFF: has lost its palette")
    # Some writers leave 8 bits in the place of 16; libtiff tells them by the same sign.
    eight = colours if colours.max() < 256 else colours >> 8
    return np.ascontiguousarray(eight.T.astype(np.uint8))


def _luminance(page: tifffile.TiffPage) -> _Luminance | None:
    """None where there is none, or the decoder has made red, green and blue of it, as of JPEG."""
    if page.compression == COMPRESSION.APERIO_JP2000_YCBC:
        return _Luminance.of(page)  # whatever the file says of its colours
    if page.photometric != PHOTOMETRIC.YCBCR:
        return None
    if page.compression in tifffile.TIFF.IMAGE_COMPRESSIONS and page.planarconfig == 1:
        return None
    if page.is_subsampled or page.samplesperpixel != 3 or page.dtype != np.uint8:
        raise RejectError(
            "layout",
            "has YCbCr colours without JPEG, which are supported with 8 bits and no subsampling",
        )
    return _Luminance.of(page)


def _alpha(page: tifffile.TiffPage, axes: str) -> tuple[int, ...]:
    """The samples that are alpha. A fourth of RGB that nothing is said of is, as to libtiff.

    None is where the file calls them channels: tifffile has stored four channels as RGB and alpha.
    """
    if "S" not in axes:
        return ()
    extra, samples = page.extrasamples, page.samplesperpixel
    if not extra and samples == 4 and page.photometric == PHOTOMETRIC.RGB:
        return (3,)
    first = samples - len(extra)
    return tuple(first + i for i, kind in enumerate(extra) if kind in _ALPHA and first + i > 0)


def _fractions(
    page: tifffile.TiffPage, tag: int, otherwise: tuple[float, ...]
) -> NDArray[np.float64]:
    """The value of a tag of rationals."""
    value = page.tags.valueof(tag)
    if value is None:
        return np.array(otherwise)
    found = np.array(value, np.float64)
    if found.size == len(otherwise):
        return found  # written as whole numbers or floats
    pairs = found.reshape(len(otherwise), 2)
    return np.asarray(pairs[:, 0] / pairs[:, 1])
