"""Reading: every supported layout comes out as stored, every bad file with its code."""

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pipeline.config import NormalizeSettings, ReaderSettings
from pipeline.errors import RejectError
from pipeline.images import normalize as normalizing
from pipeline.images import reader
from pipeline.images.normalize import match_channels, measure_range, normalize
from pipeline.images.reader import decode_image

RNG = np.random.default_rng(0)


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> NDArray[np.generic]:
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def png(image: NDArray[np.generic]) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def tiff(image: NDArray[np.generic], **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def pillow(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(RGB8), Image.fromarray(RGB8[::-1].copy())]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    return file.getvalue()


def read(data: bytes, name: str = "a", **settings: object) -> NDArray[np.generic]:
    return decode_image(data, name, ReaderSettings(**settings))


GRAY8, GRAY16 = noise((20, 31)), noise((20, 31), np.uint16)
RGB8, RGB16 = noise((20, 31, 3)), noise((20, 31, 3), np.uint16)
RGBA8, MANY = noise((20, 31, 4)), noise((5, 20, 31), np.uint16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(GRAY8), GRAY8[..., None]),
        (png(GRAY16), GRAY16[..., None]),
        (png(RGB8[..., ::-1]), RGB8),
        (imagecodecs.png_encode(RGB16), RGB16),
        (imagecodecs.png_encode(RGBA8), RGBA8[..., :3]),
        (tiff(GRAY8), GRAY8[..., None]),
        (tiff(GRAY16, compression="zlib", tile=(16, 16)), GRAY16[..., None]),
        (tiff(RGB8, photometric="rgb"), RGB8),
        (tiff(RGB16, photometric="rgb", compression="lzw"), RGB16),
        (tiff(RGBA8, photometric="rgb", extrasamples=["unassalpha"]), RGBA8[..., :3]),
        (tiff(MANY, photometric="minisblack"), np.moveaxis(MANY, 0, -1)),
        (tiff(MANY, metadata={"axes": "CYX"}, ome=True), np.moveaxis(MANY, 0, -1)),
        (
            tiff(np.moveaxis(MANY, 0, -1), photometric="minisblack", planarconfig="contig"),
            np.moveaxis(MANY, 0, -1),
        ),
        (tiff(GRAY8, photometric="miniswhite"), (255 - GRAY8)[..., None]),
        (tiff(GRAY8.astype(np.float32) / 7), (GRAY8.astype(np.float32) / 7)[..., None]),
        (pillow(Image.fromarray(GRAY8), "BMP"), GRAY8[..., None]),
        (pillow(Image.fromarray(RGB8), "BMP"), RGB8),
        (pillow(Image.fromarray(RGBA8), "BMP"), RGBA8[..., :3]),
        (imagecodecs.webp_encode(RGB8, lossless=True), RGB8),
        (imagecodecs.webp_encode(RGBA8, lossless=True), RGBA8[..., :3]),
        (imagecodecs.jpeg2k_encode(RGB8, level=0), RGB8),
        (imagecodecs.jpeg2k_encode(RGB16, level=0, codecformat="J2K"), RGB16),
        (imagecodecs.jpeg2k_encode(GRAY16, level=0), GRAY16[..., None]),
        (imagecodecs.jpeg2k_encode(RGBA8, level=0), RGBA8),  # a fourth band
        (pillow(Image.fromarray(RGBA8), "JPEG2000"), RGBA8[..., :3]),
        (pillow(Image.fromarray(GRAY8).convert("LA"), "JPEG2000"), GRAY8[..., None]),
        (pillow(Image.fromarray(GRAY8).convert("1"), "PNG"), None),
        (pillow(Image.fromarray(RGB8).convert("P"), "PNG"), None),
    ],
)
def test_layouts(data: bytes, expected: NDArray[np.generic] | None) -> None:
    found = read(data)
    assert found.ndim == 3
    if expected is not None:
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def test_palette_and_bilevel_become_what_they_show() -> None:
    palette = Image.fromarray(RGB8).quantize(256)
    assert np.array_equal(read(pillow(palette, "PNG")), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(GRAY8).convert("1")
    assert np.array_equal(read(pillow(bits, "PNG"))[..., 0], np.asarray(bits) * 255)


def bitmap(numbers: NDArray[np.uint8], bits: int, palette: list[int]) -> bytes:
    """A BMP whose palette has as many grays as are given."""
    rows = b""
    for row in numbers[::-1]:
        digits = np.unpackbits(row[:, None], axis=1)[:, -bits:]
        packed = np.packbits(digits.ravel()).tobytes()
        rows += packed + bytes(-len(packed) % 4)
    colours = b"".join(bytes([gray, gray, gray, 0]) for gray in palette)
    height, width = numbers.shape
    begin = 54 + len(colours)
    head = struct.pack("<2sIII", b"BM", begin + len(rows), 0, begin)
    sizes = (40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + colours + rows


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("palette", [[0, 255], [255, 0], [0, 1], [9, 7, 8]])
def test_a_bitmap_shows_what_its_palette_says(bits: int, palette: list[int]) -> None:
    """However few colours it has, which Pillow takes for bits."""
    numbers = GRAY8 % (2 if bits == 1 else len(palette))
    found = read(bitmap(numbers, bits, palette))
    assert np.array_equal(found.max(-1), np.array(palette, np.uint8)[numbers])
    assert np.array_equal(found.min(-1), found.max(-1))


def chunk(kind: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize("kind", ["PNG", "PNG without any", "BMP"])
def test_a_palette_that_has_lost_colours_is_damage(kind: str) -> None:
    """What decoders make of them is black; in class maps the numbers are what counts."""
    numbers = GRAY8 % 16
    if kind == "BMP":
        data = bitmap(numbers, 8, [9] * 15)
    else:
        palette = pillow(Image.fromarray(numbers).convert("P"), "PNG")
        begin, end = palette.index(b"PLTE") - 4, palette.index(b"IDAT") - 4
        rest = b"" if "without" in kind else chunk(b"PLTE", RGB8.tobytes()[: 3 * 15])
        data = palette[:begin] + rest + palette[end:]
    with pytest.raises(RejectError, match="has lost colours of its palette") as refused:
        read(data)
    assert refused.value.code == "corrupt"
    if kind != "BMP":
        assert np.array_equal(
            decode_image(data, "a", ReaderSettings(), as_indices=True)[..., 0], numbers
        )


def retagged(data: bytes, code: int, value: object, page: int = 0) -> bytes:
    """A TIFF with another value in a tag of a page."""
    file = io.BytesIO(data)
    with tifffile.TiffFile(file, mode="r+b") as opened:
        opened.pages[page].tags[code].overwrite(value)
    return file.getvalue()


COLOURS = np.random.default_rng(1).integers(0, 1 << 16, (3, 256)).astype(np.uint16)


@pytest.mark.parametrize("colours", [COLOURS, COLOURS >> 8], ids=["16 bits", "8 bits"])
def test_palettes_of_tiff_are_looked_up(colours: NDArray[np.uint16]) -> None:
    """Those of 8 bits too, which libtiff knows by having no value above 255."""
    found = read(tiff(GRAY8, photometric="palette", colormap=colours))
    assert np.array_equal(found, (COLOURS >> 8).T[GRAY8])
    bits = GRAY8 > 127
    two = tiff(bits, extratags=[(320, 3, 6, colours[:, :2].ravel(), True)])
    assert np.array_equal(
        read(retagged(two, 262, 3)), (COLOURS[:, :2] >> 8).T[bits.astype(np.uint8)]
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 16])
def test_white_is_low_in_any_number_of_bits(bits: int) -> None:
    top = (1 << bits) - 1
    values = (GRAY16 & top).astype(np.uint8 if bits <= 8 else np.uint16)
    how = {"bitspersample": bits} if bits not in (1, 8, 16) else {}
    found = read(tiff(values == 1 if bits == 1 else values, photometric="miniswhite", **how))
    expected = top - values if bits > 1 else (1 - values) * 255
    assert np.array_equal(found[..., 0], expected)
    assert found.dtype == values.dtype


def test_white_is_low_with_signs_and_fractions() -> None:
    values = GRAY16.astype(np.int16)
    found = read(tiff(values, photometric="miniswhite"))
    assert np.array_equal(found[..., 0].astype(int), -1 - values.astype(int))
    with pytest.raises(RejectError, match="white is low") as refused:
        read(tiff(values.astype(np.float32), photometric="miniswhite"))
    assert refused.value.code == "layout"


def luminance(numbers: NDArray[np.uint8], **how: object) -> bytes:
    return tiff(numbers, photometric="ycbcr", compression="zlib", **how)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {532: [(16, 1), (235, 1), (128, 1), (240, 1), (128, 1), (240, 1)]},
        {529: [(2125, 10_000), (7154, 10_000), (721, 10_000)]},
    ],
    ids=["full range", "video range", "other luma"],
)
def test_luminance_is_colour_as_libtiff_says(tags: dict[int, list[tuple[int, int]]]) -> None:
    extra = [(code, 5, len(v), np.ravel(v).tolist(), True) for code, v in tags.items()]
    data = luminance(RGB8, extratags=extra)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = np.asarray(image.convert("RGB")).astype(int)
    # libtiff cuts off the fractions of Cb and Cr where they are not the full range.
    assert np.abs(read(data).astype(int) - expected).max() <= (3 if 532 in tags else 1)


def bitmap_of_masks() -> bytes:
    """A BMP of 32 bits, ten for each colour."""
    sizes = (40, 31, 20, 1, 32, 3, RGBA8.nbytes, 0, 0, 0, 0)
    head = struct.pack("<2sIII", b"BM", 66 + RGBA8.nbytes, 0, 66)
    masks = struct.pack("<III", 0x3FF, 0x3FF << 10, 0x3FF << 20)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + masks + RGBA8.tobytes()


def test_inks_that_are_no_cmyk_are_channels() -> None:
    inks = tiff(RGBA8, photometric="separated", extratags=[(332, 3, 1, 2, True)])
    assert np.array_equal(read(inks), RGBA8)


def test_colours_that_are_not_supported_are_refused() -> None:
    halved = retagged(luminance(RGB8), 530, (2, 2))
    for data, reason in (
        (halved, "YCbCr colours without JPEG"),
        (luminance(RGB16), "YCbCr colours without JPEG"),
        (retagged(tiff(RGB8, photometric="rgb"), 262, 8), "CIELAB colours"),
        (retagged(tiff(RGB8, photometric="rgb"), 262, 9), "ICCLAB colours"),
        (tiff(RGBA8, photometric="separated"), "CMYK colours"),
        (bitmap_of_masks(), "not supported in a BMP; convert it to PNG"),
    ):
        with pytest.raises(RejectError, match=reason) as refused:
            read(data)
        assert refused.value.code == "layout"


@pytest.mark.parametrize(
    ("extra", "channels"), [("unspecified", 4), ("assocalpha", 3), ("unassalpha", 3)]
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_only_alpha_is_dropped(extra: str, channels: int, planar: str) -> None:
    """A fourth band, such as near infrared, is one of the image."""
    stored = RGBA8 if planar == "contig" else np.moveaxis(RGBA8, -1, 0)
    data = tiff(stored, photometric="rgb", extrasamples=[extra], planarconfig=planar)
    assert np.array_equal(read(data), RGBA8[..., :channels])


def test_a_fourth_band_that_nothing_is_said_of_is_alpha() -> None:
    _, data = cv2.imencode(".tiff", RGBA8)
    assert read(data.tobytes()).shape == (20, 31, 3)
    silent = retagged(tiff(RGBA8, photometric="rgb", extrasamples=["unassalpha"]), 338, 0)
    assert read(silent).shape == (20, 31, 4)


@pytest.mark.filterwarnings("ignore:.*stored as RGB with separate component planes")
def test_four_channels_by_name_are_four() -> None:
    """tifffile stores them as RGB and alpha, unless it is told otherwise."""
    planes = np.moveaxis(RGBA8, -1, 0)
    assert np.array_equal(read(tiff(planes, metadata={"axes": "CYX"})), RGBA8)


@pytest.mark.parametrize("shape", [(3, 2, 3000), (3, 3000, 2), (2, 3, 70), (5, 5, 5)])
def test_thin_images_keep_their_channels(shape: tuple[int, int, int]) -> None:
    """Where axes say which are height and width, the other is the channels."""
    image = noise(shape)
    found = read(tiff(image, photometric="minisblack", metadata={"axes": "QYX"}))
    assert np.array_equal(found, np.moveaxis(image, 0, -1))


def test_the_image_is_neither_its_thumbnail_nor_its_mask() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GRAY8[::2, ::2], subfiletype=1, metadata=None)
        writer.write(GRAY8[::4, ::4] > 9, subfiletype=4, metadata=None)
        writer.write(GRAY16, metadata=None)
    assert np.array_equal(read(file.getvalue())[..., 0], GRAY16)
    assert np.array_equal(read(tiff(GRAY8, subfiletype=1))[..., 0], GRAY8)


def test_a_jpeg_without_losses_is_as_it_was_stored() -> None:
    assert np.array_equal(read(imagecodecs.jpeg_encode(RGB8, lossless=True)), RGB8)


def coloured(number: int, pixels: NDArray[np.uint8] = RGB8) -> bytes:
    """A JPEG 2000 that says to have other colours (EnumCS)."""
    return imagecodecs.jpeg2k_encode(pixels, level=0, mct=False).replace(
        b"colr\1\0\0" + struct.pack(">I", 16), b"colr\1\0\0" + struct.pack(">I", number)
    )


def test_luminance_in_jpeg_2000_is_colour() -> None:
    smooth = cv2.resize(noise((4, 4, 3)), (64, 48), interpolation=cv2.INTER_CUBIC)
    luminance = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    assert np.abs(read(coloured(18, luminance)).astype(int) - smooth).max() <= 3


def test_jpeg_is_close_to_what_was_stored() -> None:
    smooth = cv2.resize(noise((4, 4, 3)), (64, 48), interpolation=cv2.INTER_CUBIC)
    data = cv2.imencode(".jpg", smooth[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    found = read(data, "a.JPG")
    assert found.shape == smooth.shape
    assert np.abs(found.astype(int) - smooth).mean() < 4


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 900 megapixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", "a.png"),
    "unknown_format": (b"these are words, not pixels", "a.png"),
    "misnamed": (png(GRAY8), "a.jpg"),
    "corrupt": (b"\x89PNG\r\n\x1a\n" + b"garbage" * 20, "a.png"),
    "corrupt-truncated-png": (png(RGB8)[:-300], "a.png"),
    "corrupt-truncated-deep-png": (imagecodecs.png_encode(RGB16)[:-1500], "a.png"),
    "corrupt-truncated-jpeg": (cv2.imencode(".jpg", RGB8)[1].tobytes()[:-400], "a.jpg"),
    "corrupt-truncated-tiff": (tiff(noise((64, 64)), rowsperstrip=8)[:-500], "a.tif"),
    "corrupt-truncated-lzw": (tiff(noise((64, 64)), compression="lzw")[:-500], "a.tif"),
    "corrupt-tiff-header": (b"II*\x00" + b"\xff" * 40, "a.tif"),
    "corrupt-truncated-bmp": (pillow(Image.fromarray(RGB8), "BMP")[:-400], "a.bmp"),
    "corrupt-truncated-webp": (imagecodecs.webp_encode(RGB8)[:-20], "a.webp"),
    "corrupt-truncated-jp2": (imagecodecs.jpeg2k_encode(RGB8)[:-20], "a.jp2"),
    "corrupt-bmp-header": (b"BM" + bytes(12) + b"\x28\0\0\0" + b"garbage" * 20, "a.bmp"),
    "corrupt-webp-header": (b"RIFF\x09\0\0\0WEBP" + b"garbage" * 20, "a.webp"),
    "corrupt-jp2-header": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"garbage" * 20, "a.jp2"),
    "corrupt-j2k-header": (b"\xff\x4f\xff\x51" + b"garbage", "a.j2k"),
    "too_large": (bomb(), "a.png"),
    "too_large-jp2": (
        imagecodecs.jpeg2k_encode(RGB8).replace(struct.pack(">II", 31, 20), b"\0\1\0\0" * 2),
        "a.jp2",
    ),
    "layout-animation": (animation(), "a.webp"),
    "layout-cmyk-jp2": (coloured(12), "a.jp2"),
    "layout": (tiff(noise((100, 120, 130)), metadata={"axes": "ZYX"}), "a.tif"),
    "corrupt-jpeg-header": (b"\xff\xd8\xff" + b"garbage" * 20, "a.jpg"),
    "corrupt-png-header": (b"\x89PNG\r\n\x1a\n", "a.png"),
    "layout-12-bit-jpeg": (imagecodecs.jpeg_encode(GRAY16 >> 4, bitspersample=12), "a.jpg"),
    "layout-16-bit-jpeg": (
        imagecodecs.jpeg_encode(GRAY16, lossless=True, bitspersample=16),
        "a.jpg",
    ),
    "layout-jpeg-ls": (imagecodecs.jpegls_encode(GRAY8), "a.jpg"),
    "layout-complex": (tiff(GRAY8.astype(np.complex64)), "a.tif"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_with_their_code(kind: str) -> None:
    data, name = BAD[kind]
    with pytest.raises(RejectError) as refused:
        read(data, name)
    assert refused.value.code == kind.partition("-")[0]
    assert "\n" not in refused.value.message
    assert "0x" not in refused.value.message  # an address, so that equal runs would differ
    assert "not processed" not in refused.value.message  # a number that says nothing of the file


@pytest.mark.parametrize("cut", range(1, 12))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp", "a.webp", "a.jp2", "a.j2k"])
def test_no_truncation_passes(name: str, cut: int) -> None:
    whole = {
        "a.png": png(RGB8),
        "a.jpg": cv2.imencode(".jpg", RGB8)[1].tobytes(),
        "a.tif": tiff(RGB8, photometric="rgb", compression="zlib", rowsperstrip=4),
        "a.bmp": pillow(Image.fromarray(noise((20, 32, 3))), "BMP"),
        "a.webp": imagecodecs.webp_encode(RGB8),
        "a.jp2": imagecodecs.jpeg2k_encode(RGB8),
        "a.j2k": imagecodecs.jpeg2k_encode(RGB16, level=0, codecformat="J2K"),
    }[name]
    with pytest.raises(RejectError):
        read(whole[: len(whole) * cut // 12 - 1], name)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"ZISRAWFILE" + bytes(40), "a Zeiss CZI, which is not read; convert it to OME-Zarr"),
        (b"\xda\xce\xbe\x0a" + bytes(40), "a Nikon ND2"),
        (b"\x70\0\0\0" + b"abcd\x2a" + bytes(40), "a Leica LIF"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"\x5c\1\0\0" + bytes(340) + b"n+1\0", "NIfTI"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        (b"\x93NUMPY\1\0" + bytes(40), "a NumPy array"),
        (pillow(Image.fromarray(GRAY8), "GIF"), "a GIF, which is not read; convert it to PNG"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video, which is not read; take its frames out"),
        (b"RIFF\xff\0\0\0AVI LIST", "a video"),
        (b"PK\x03\x04" + bytes(40), "a ZIP archive, which is not read; unpack it"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "HTML or XML"),
        (b"BMW and Audi", "is not a PNG, JPEG, TIFF, BMP, WebP or JPEG 2000 file"),
    ],
)
def test_files_of_known_formats_are_told_what_to_do(data: bytes, words: str) -> None:
    with pytest.raises(RejectError, match=words) as refused:
        read(data)
    assert refused.value.code == "unknown_format"


def test_a_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reader.DECODERS, "PNG", lambda *given: np.empty(1 << 55))
    with pytest.raises(RejectError, match="needs more memory") as caught:
        decode_image(png(noise((4, 4))), "a.png", ReaderSettings())
    assert caught.value.code == "memory"


def test_limits_and_names_are_settings() -> None:
    with pytest.raises(RejectError, match="over the limit of 100"):
        read(png(GRAY8), max_pixels=100)
    assert read(png(GRAY8), "a.jpg", allow_misnamed=True).shape == (20, 31, 1)


def test_only_formats_that_are_read_by_window_may_be_larger_than_the_limit() -> None:
    asked: list[tuple[int, int]] = []
    settings = ReaderSettings(max_pixels=100)

    def admit(height: int, width: int) -> None:
        asked.append((height, width))

    with pytest.raises(RejectError, match="over the limit of 100"):
        decode_image(png(GRAY8), "a.png", settings, admit=admit)
    assert not asked
    assert decode_image(tiff(GRAY8), "a.tif", settings, admit=admit).shape == (20, 31, 1)
    assert asked == [(20, 31)]


def test_percentiles_stretch_each_image_alike() -> None:
    image = np.arange(10_000, dtype=np.uint16).reshape(100, 100, 1)
    settings = NormalizeSettings(low=1, high=99)
    for scaled in (image, image * 5 + 300, image.astype(np.float32) / 3):
        values = normalize(scaled, measure_range(scaled, settings))
        assert np.percentile(values, (1, 99)) == pytest.approx([0, 1], abs=2e-3)


def test_images_without_contrast_or_with_nan_stay_finite() -> None:
    flat = np.full((5, 5, 1), 7, np.uint8)
    assert not normalize(flat, measure_range(flat, NormalizeSettings())).any()
    holes = np.linspace(0, 1, 25, dtype=np.float32).reshape(5, 5, 1)
    holes[0, 0], holes[1, 1] = np.nan, np.inf
    assert np.isfinite(normalize(holes, measure_range(holes, NormalizeSettings()))).all()


@pytest.mark.parametrize("times", [3, 4, 6])
def test_a_sample_of_colours_is_of_all_of_them(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """However many values a sample leaves out between two."""
    image = np.random.default_rng(0).normal((100, 500, 900), 9, (100, 120, 3)).astype(np.float32)
    monkeypatch.setattr(normalizing, "_SAMPLE", image.size // times)
    found = measure_range(image, NormalizeSettings(low=1, high=99))
    low, high = np.percentile(image, (1, 99))
    assert (found.low[0], found.high[0]) == pytest.approx((low, high), rel=0.02)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_far_from_nothing_is_not_lost(dtype: type, channels: int) -> None:
    """Numbers of 32 and 64 bits are about their own offset what they are about none."""
    near = np.random.default_rng(0).integers(0, 500, (40, 50, channels))
    offset = 1 << (23 if dtype == np.float32 else 30)
    for fitted in (channels, 1):
        settings = NormalizeSettings()
        values = [
            normalize(image, measure_range(image, settings))
            for image in (
                match_channels(near.astype(np.float64), fitted),
                match_channels((near + offset).astype(dtype), fitted),
            )
        ]
        # Gray of whole numbers is rounded.
        assert np.abs(values[0] - values[1]).max() < (1e-5 if fitted == channels else 2e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16])
def test_small_numbers_are_normalised_in_32_bits(dtype: type) -> None:
    """To the bit as models were trained on them."""
    image = np.random.default_rng(0).integers(0, 120, (40, 50, 2)).astype(dtype)
    bounds = measure_range(image, NormalizeSettings())
    low, high = bounds.low.astype(np.float32), bounds.high.astype(np.float32)
    expected = (image.astype(np.float32) - low) * (np.float32(1) / (high - low))
    assert np.array_equal(normalize(image, bounds), expected.clip(-1, 3))


def test_channels_fit_or_are_refused() -> None:
    assert np.array_equal(match_channels(GRAY8[..., None], 3)[..., 2], GRAY8)
    gray = match_channels(np.full((2, 2, 3), 100, np.uint8), 1)
    assert gray.dtype == np.uint8
    assert (gray == 100).all()
    five = np.arange(20, dtype=np.uint8).reshape(2, 2, 5)
    assert np.array_equal(match_channels(five, 2, [3, 0]), five[..., [3, 0]])
    assert np.array_equal(match_channels(five, 3, [4]), five[..., [4, 4, 4]])
    with pytest.raises(RejectError, match="has 5 channels, and none of number 5"):
        match_channels(five, 3, [0, 1, 5])
    with pytest.raises(RejectError, match="5 channels where the model takes 3; --channel"):
        match_channels(np.zeros((2, 2, 5), np.uint8), 3)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def photograph(height: int = 240, width: int = 331) -> Image.Image:
    """Smooth with some noise, as a camera's."""
    noise_ = np.random.default_rng(0).normal(128, 60, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise_, None, 4) * 3 - 256
    return Image.fromarray(smooth.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 0},
        {"subsampling": 1},
        {"subsampling": 2},
        {"progressive": True},
        {"restart_marker_blocks": 3},
    ],
)
def test_a_jpeg_is_what_pillow_makes_of_it(mode: str, options: dict[str, Any]) -> None:
    data = jpeg(photograph().convert(mode), quality=85, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image if mode == "L" else image.convert("RGB"))
    found = read(data)
    assert np.array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("kind", ["zeroed", "lost"])
def test_a_jpeg_that_lacks_a_block_of_its_file_is_refused(
    kind: str, options: dict[str, Any]
) -> None:
    """As a disk or a download leaves it, but where what follows happens to fit; a single wrong
    byte need not be seen by any decoder."""
    rng = np.random.default_rng(1)
    data = jpeg(photograph(900, 1200), quality=90, **options)
    first = data.index(b"\xff\xda") + 14
    told = []
    for _ in range(20):
        at = int(rng.integers(first, len(data) - 4096))
        block = bytes(4096) if kind == "zeroed" else b""
        try:
            read(data[:at] + block + data[at + 4096 :])
        except RejectError as error:
            told.append(f"{error.code}: {error.message}")
    assert all(line.startswith("corrupt: damaged JPEG: ") for line in told)
    assert len(told) >= 18


@pytest.mark.parametrize("case", ["no end", "after its end", "before its end"])
def test_a_jpeg_whose_pixels_are_all_there_is_read(case: str) -> None:
    """Bytes too few or too many, as of cameras that fill their files."""
    data = jpeg(photograph())
    changed = {
        "no end": data[:-2],
        "after its end": data + bytes(700),
        "before its end": data[:-2] + bytes(18) + data[-2:],
    }[case]
    assert np.array_equal(read(changed), read(data))


def test_a_jpeg_that_ends_in_its_middle_is_refused() -> None:
    data = jpeg(photograph())
    with pytest.raises(RejectError, match="damaged JPEG: premature end") as error:
        read(data[: len(data) * 2 // 3])
    assert error.value.code == "corrupt"
