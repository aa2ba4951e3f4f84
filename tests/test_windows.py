"""Images that are read by window: what a window holds is what the whole image holds there."""

import contextlib
import io
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.codecs import BloscCodec, ZstdCodec

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.errors import RejectError
from pipeline.images import windows
from pipeline.images.reader import decode_image
from pipeline.images.windows import LevelChoice, open_windows
from pipeline.records import Box

H, W = 300, 410
BOXES = [Box(0, 0, H, W), Box(10, 20, 11, 21), Box(64, 64, 128, 192), Box(250, 333, H, W)]
GRAY = np.random.default_rng(0).integers(0, 60_000, (H, W)).astype(np.uint16)
RGB = np.random.default_rng(1).integers(0, 255, (H, W, 3)).astype(np.uint8)
PLANES = np.random.default_rng(2).integers(0, 60_000, (5, H, W)).astype(np.uint16)


INDICES = (GRAY % 256).astype(np.uint8)
BITS = GRAY % 2 == 1
COLOURS = np.random.default_rng(3).integers(0, 1 << 16, (3, 256)).astype(np.uint16)


def tiff(pixels: NDArray[np.generic], **how: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **how)


def retagged(write: Callable[[Path], None], code: int, value: object) -> Callable[[Path], None]:
    """With another value in a tag of its first page."""

    def write_so(path: Path) -> None:
        write(path)
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages[0].tags[code].overwrite(value)

    return write_so


TIFFS = {
    "tiles": tiff(GRAY, tile=(64, 80), compression="zlib"),
    "strips": tiff(GRAY, rowsperstrip=17, compression="lzw"),
    "predictor": tiff(GRAY, tile=(64, 64), compression="zlib", predictor=True),
    "no compression": tiff(GRAY, tile=(64, 64)),
    "one run of numbers": tiff(GRAY, byteorder=">"),
    "colour, one run of numbers": tiff(RGB, photometric="rgb"),
    "bigtiff, big endian": tiff(GRAY, tile=(64, 64), bigtiff=True, byteorder=">"),
    "colour": tiff(RGB, tile=(64, 64), compression="zstd"),
    "colour, planes apart": tiff(
        np.moveaxis(RGB, -1, 0), tile=(64, 64), planarconfig="separate", photometric="rgb"
    ),
    "colour, jpeg": tiff(RGB, tile=(64, 64), compression="jpeg", photometric="rgb"),
    "ome, channels as pages": tiff(
        PLANES, tile=(64, 64), compression="zlib", metadata={"axes": "CYX"}, ome=True
    ),
    "white is zero": tiff(GRAY, tile=(64, 64), photometric="miniswhite"),
    "white is zero, 4 bits": tiff(
        INDICES % 16, tile=(64, 64), photometric="miniswhite", bitspersample=4
    ),
    "palette": tiff(INDICES, tile=(64, 64), photometric="palette", colormap=COLOURS),
    "palette, strips": tiff(INDICES, rowsperstrip=17, photometric="palette", colormap=COLOURS),
    "palette of 16 bits": tiff(
        GRAY, tile=(64, 64), photometric="palette",
        colormap=np.random.default_rng(4).integers(0, 1 << 16, (3, 1 << 16)).astype(np.uint16),
    ),
    "palette of 2": retagged(
        tiff(BITS, rowsperstrip=17, extratags=[(320, 3, 6, COLOURS[:, :2].ravel(), True)]), 262, 3
    ),
    "luminance": tiff(RGB, tile=(64, 64), photometric="ycbcr"),
    "another band": tiff(
        np.dstack([RGB, RGB[..., :1]]), tile=(64, 64), extrasamples=["unspecified"],
        photometric="rgb",
    ),
    "alpha": tiff(
        np.dstack([RGB, RGB[..., :1]]), tile=(64, 64), extrasamples=["unassalpha"],
        photometric="rgb",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIFFS)
def test_windows_of_a_tiff(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.tif"
    TIFFS[name](path)
    whole = decode_image(path.read_bytes(), path.name, ReaderSettings())
    image = open_windows(str(path))
    assert image is not None
    assert image.shape == whole.shape
    for box in BOXES:
        assert np.array_equal(image.read(box), whole[box.y0 : box.y1, box.x0 : box.x1])


@pytest.mark.parametrize("name", ["one run of numbers", "colour, one run of numbers"])
def test_one_run_of_numbers_is_read_by_window_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "image.tif"
    TIFFS[name](path)
    monkeypatch.setattr(windows.tiff, "_LARGEST_SEGMENT", 1000)
    asked: list[tuple[int, int]] = []
    real = storage.read_ranges
    image = open_windows(str(path))
    assert image is not None
    monkeypatch.setattr(storage, "read_ranges", lambda u, r: asked.extend(r) or real(u, r))
    whole = decode_image(path.read_bytes(), path.name, ReaderSettings())
    assert np.array_equal(image.read(Box(10, 20, 15, 30)), whole[10:15, 20:30])
    assert sum(length for _, length in asked) == 5 * W * whole[0, 0].nbytes


def test_numbers_of_a_window_are_those_of_the_whole(tmp_path: Path) -> None:
    """Bits spread over 0 to 255, complex numbers refused, as where an image is decoded at once."""
    bits = np.random.default_rng(0).random((50, 70)) > 0.5
    tifffile.imwrite(tmp_path / "bits.tif", bits, rowsperstrip=8)
    image = open_windows(str(tmp_path / "bits.tif"))
    assert image is not None
    expected = decode_image((tmp_path / "bits.tif").read_bytes(), "bits.tif", ReaderSettings())
    found = image.read(Box(0, 0, 50, 70))
    assert np.array_equal(found, expected)
    assert found.dtype == np.uint8
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((50, 70), np.complex64), rowsperstrip=8)
    with pytest.raises(RejectError, match="complex64 are not supported"):
        open_windows(str(tmp_path / "complex.tif"))


def test_only_what_a_window_touches_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.tif"
    TIFFS["tiles"](path)
    image = open_windows(str(path))
    asked: list[tuple[int, int]] = []
    real = storage.read_ranges

    def counting(uri: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        asked.extend(ranges)
        return real(uri, ranges)

    monkeypatch.setattr(storage, "read_ranges", counting)
    image.read(Box(64, 80, 128, 160))
    assert len(asked) == 1


def write_pyramid(path: Path, microns: float | None = 0.25) -> list[NDArray[np.uint16]]:
    """A TIFF with three levels; returns them."""
    levels = [GRAY, GRAY[::2, ::2], GRAY[::4, ::4]]
    dots = {} if microns is None else {"resolution": (1e4 / microns,) * 2, "resolutionunit": 3}
    with tifffile.TiffWriter(path) as file:
        file.write(GRAY, tile=(64, 64), subifds=2, **dots)
        for level in levels[1:]:
            file.write(np.ascontiguousarray(level), tile=(64, 64), subfiletype=1)
    return levels


def test_a_level_of_a_tiff_by_number_and_by_resolution(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    levels = write_pyramid(path)
    for settings, level in (
        (LevelChoice(level=1), 1),
        (LevelChoice(mpp=0.25), 0),
        (LevelChoice(mpp=0.45), 1),
        (LevelChoice(mpp=1.2), 2),
    ):
        image = open_windows(str(path), settings)
        height, width = levels[level].shape
        assert image.shape == (height, width, 1)
        assert np.array_equal(image.read(Box(0, 0, height, width))[..., 0], levels[level])


@pytest.mark.parametrize("name", ["slide.svs", "slide.SVS", "slide.btf", "slide"])
def test_a_tiff_of_another_name_is_read_by_window_and_level(tmp_path: Path, name: str) -> None:
    levels = write_pyramid(tmp_path / name)
    for level, expected in enumerate(levels):
        image = open_windows(str(tmp_path / name), LevelChoice(level=level))
        assert image is not None
        assert np.array_equal(image.read(Box(3, 5, 60, 70))[..., 0], expected[3:60, 5:70])


def test_a_level_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    write_pyramid(path)
    for settings, reason in (
        (LevelChoice(level=3), "has 3 levels, 0 to 2, not 3"),
        (LevelChoice(mpp=5), "has levels of 0.25, 0.5, .* µm a pixel, none near 5"),
    ):
        with pytest.raises(RejectError, match=reason) as caught:
            open_windows(str(path), settings)
        assert caught.value.code == "level"
    write_pyramid(tmp_path / "plain.tif", microns=None)
    with pytest.raises(RejectError, match="does not say how large its pixels are"):
        open_windows(str(tmp_path / "plain.tif"), LevelChoice(mpp=0.5))


def says_half_a_micron(path: Path) -> bool:
    """Whether an image, by what it says, has pixels of 0.5 µm; a level may be 1.5 times off."""

    def has(mpp: float) -> bool:
        with contextlib.suppress(RejectError):
            return open_windows(str(path), LevelChoice(mpp=mpp)) is not None
        return False

    return [has(0.5 * off) for off in (1 / 1.6, 1 / 1.4, 1.4, 1.6)] == [False, True, True, False]


def ome(size: float, unit: str | None) -> Callable[[Path], None]:
    said = {"PhysicalSizeX": size} | ({} if unit is None else {"PhysicalSizeXUnit": unit})
    return tiff(GRAY, tile=(64, 64), metadata={"axes": "YX", **said}, ome=True)


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        (0.5, None), (0.5, "µm"), (500, "nm"), (5e-4, "mm"), (5e-5, "cm"), (5e-7, "m"),
        (5e5, "pm"), (5000, "Å"), (0.5 / 25_400, "in"), (0.5 / 304_800, "ft"),
        (0.5 / 25.4, "thou"), (5e-10, "km"), (0.5e-6 / 1609.344, "mi"), (0.5 / 25_400 * 72, "pt"),
    ],
)  # fmt: skip
def test_ome_says_how_large_pixels_are_in_units_of_length(
    tmp_path: Path, size: float, unit: str | None
) -> None:
    ome(size, unit)(tmp_path / "image.tif")
    assert says_half_a_micron(tmp_path / "image.tif")


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "furlong"])
def test_a_unit_that_is_none_says_nothing(tmp_path: Path, unit: str) -> None:
    ome(0.5, unit)(tmp_path / "image.tif")
    assert not says_half_a_micron(tmp_path / "image.tif")


@pytest.mark.parametrize(
    "unit", [b"um", b"micron", b"\\u00B5m", "µm".encode(), b"\xb5m", b"nm", b"pixel", b""]
)
def test_imagej_says_how_large_pixels_are(tmp_path: Path, unit: bytes) -> None:
    dots = 0.002 if unit == b"nm" else 2
    said = b"ImageJ=1.54f\nunit=" + unit + b"\nloop=false\n"
    path = tmp_path / "image.tif"
    tiff(GRAY, description=said, metadata=None, resolution=(dots, dots), resolutionunit=1)(path)
    assert says_half_a_micron(path) == (unit not in (b"pixel", b""))


def test_metadata_that_cannot_be_read_costs_nobody_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    ome(0.5, "µm")(path)
    whole = tifffile.TiffFile(path).ome_metadata
    for broken in (
        whole.replace("<Pixels", "<<Pixels"),
        whole.replace('PhysicalSizeX="0.5"', 'PhysicalSizeX="half"'),
        whole.replace("<Image", "<Picture").replace("</Image", "</Picture"),
    ):
        assert broken != whole
        retagged(ome(0.5, "µm"), 270, broken.encode())(path)
        assert not says_half_a_micron(path)
        assert np.array_equal(open_windows(str(path)).read(Box(0, 0, H, W))[..., 0], GRAY)


def write_zarr(path: Path, version: int, axes: str = "yx", **options: Any) -> NDArray:
    """An OME-Zarr image of two levels; returns its pixels as (H, W, C).

    Args:
        options: of its arrays.
    """
    pixels = {"yx": GRAY, "cyx": PLANES, "tczyx": PLANES[None, :, None]}[axes]
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    scale = [1.0] * (len(axes) - 2)
    datasets = []
    for level, step in enumerate((1, 2)):
        data = np.ascontiguousarray(pixels[..., ::step, ::step])
        chunks = (1,) * (len(axes) - 2) + (64, 80)
        group.create_array(str(level), data=data, **({"chunks": chunks} | options))
        steps = [{"type": "scale", "scale": [*scale, 0.5 * step, 0.5 * step]}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    kinds = {"c": "channel", "t": "time"}
    described = [
        {"name": a, "type": kinds.get(a, "space")} | ({"unit": "micrometer"} if a in "zyx" else {})
        for a in axes
    ]
    multiscales = [{"version": "0.4", "axes": described, "datasets": datasets}]
    if version == 2:
        group.attrs["multiscales"] = multiscales
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    return np.atleast_3d(GRAY) if axes == "yx" else np.moveaxis(PLANES, 0, -1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_windows_of_a_zarr(tmp_path: Path, version: int, axes: str) -> None:
    whole = write_zarr(tmp_path / "image.zarr", version, axes)
    image = open_windows(str(tmp_path / "image.zarr"))
    assert image.shape == whole.shape
    for box in BOXES:
        assert np.array_equal(image.read(box), whole[box.y0 : box.y1, box.x0 : box.x1])
    half = open_windows(str(tmp_path / "image.zarr"), LevelChoice(mpp=1.0))
    assert half.shape == (150, 205, whole.shape[2])


@pytest.mark.parametrize("axes", ["xy", "cxy", "xcy", "xyc", "yxc", "txcy"])
def test_axes_of_a_zarr_may_have_any_order(tmp_path: Path, axes: str) -> None:
    whole = np.moveaxis(PLANES, 0, -1) if "c" in axes else GRAY[..., None]
    names = [axis for axis in axes if axis in "cyx"]
    data = np.einsum(f"yxc->{axes.replace('t', '')}{'' if 'c' in axes else 'c'}", whole)
    shape = [1 if axis == "t" else data.shape[names.index(axis)] for axis in axes]
    group = zarr.open_group(str(tmp_path / "image.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=np.ascontiguousarray(data.reshape(shape)))
    described = {"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [described]
    image = open_windows(str(tmp_path / "image.zarr"))
    assert image.shape == whole.shape
    for box in BOXES:
        assert np.array_equal(image.read(box), whole[box.y0 : box.y1, box.x0 : box.x1])


def test_a_missing_chunk_is_the_fill_value_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    whole = write_zarr(path, 2)
    (path / "0" / "1.2").unlink()
    image = open_windows(str(path))
    assert not image.read(Box(64, 160, 128, 240)).any()
    assert np.array_equal(image.read(Box(0, 0, 64, 80)), whole[:64, :80])
    (path / "0" / "0.0").write_bytes(b"\x02\x01\x33\x02 not a chunk")
    with pytest.raises(RejectError, match="damaged Zarr") as caught:
        image.read(Box(0, 0, 64, 80))
    assert caught.value.code == "corrupt"


PACKED: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (2, {"compressors": None}),
    "blosc 2": (2, {"compressors": numcodecs.Blosc("lz4")}),
    "blosc 3": (3, {"compressors": BloscCodec()}),
    "zstd 3": (3, {}),
    "shards": (3, {"chunks": (32, 40), "shards": (64, 80)}),
    "shards of blosc": (
        3,
        {"chunks": (32, 40), "shards": (64, 80), "compressors": BloscCodec()},
    ),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_chunk_that_is_cut_short_is_damage(tmp_path: Path, kind: str) -> None:
    """Wherever it is: Blosc's decoder would go on with what lies behind it in memory."""
    path = tmp_path / "image.zarr"
    version, options = PACKED[kind]
    write_zarr(path, version, **options)
    chunk = path / "0" / ("0.0" if version == 2 else "c/0/0")
    whole = chunk.read_bytes()
    for length in (0, 3, 15, 16, 20, len(whole) // 2, len(whole) - 1):
        chunk.write_bytes(whole[:length])
        with pytest.raises(RejectError, match="damaged Zarr") as caught:
            open_windows(str(path)).read(Box(0, 0, 60, 70))
        assert caught.value.code == "corrupt"
    chunk.write_bytes(whole)
    assert np.array_equal(open_windows(str(path)).read(Box(0, 0, 60, 70))[..., 0], GRAY[:60, :70])


def write_scn(path: Path) -> None:
    """A slide of Leica's, which begins with an overview."""
    sizes = [(0, 40, 80), (1, W, H), (2, W // 2, H // 2)]
    dimensions = [
        f'<dimension sizeX="{w}" sizeY="{h}" ifd="{i}" r="{i // 2}"/>' for i, w, h in sizes
    ]
    images = [
        f"<image><pixels>{d}</pixels></image>" for d in (dimensions[0], "".join(dimensions[1:]))
    ]
    text = f"<scn><collection>{''.join(images)}</collection></scn>"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(RGB[:80, :40], photometric="rgb", metadata=None, description=text)
        for pixels in (RGB, RGB[: H // 2, : W // 2]):
            file.write(pixels, photometric="rgb", metadata=None, tile=(64, 64))


def write_qptiff(path: Path) -> None:
    """A slide of Akoya's: a page a channel, a thumbnail, the channels again, a macro picture."""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for pixels in PLANES:
            file.write(pixels, metadata=None, tile=(64, 64), software="PerkinElmer-QPI")
        file.write(RGB[:99, :99], photometric="rgb", metadata=None)
        for pixels in PLANES:
            file.write(np.ascontiguousarray(pixels[::2, ::2]), metadata=None, tile=(64, 64))
        file.write(RGB[:50, :50], photometric="rgb", metadata=None)


def write_lsm(path: Path) -> None:
    """A confocal image of Zeiss', with its thumbnail."""
    said = np.zeros(1, np.dtype(tifffile.TIFF.CZ_LSMINFO))
    said["MagicNumber"], said["StructureSize"] = 67127628, said.nbytes
    said["DimensionX"], said["DimensionY"], said["DimensionChannels"] = W, H, 3
    said["DimensionZ"] = said["DimensionTime"] = 1
    tags = [(34412, 1, said.nbytes, said.tobytes(), True)]
    with tifffile.TiffWriter(path, byteorder="<") as file:
        file.write(
            PLANES[:3], photometric="rgb", planarconfig="separate", metadata=None, extratags=tags
        )
        file.write(RGB[:64, :64], photometric="rgb", metadata=None, subfiletype=1)


def write_stk(path: Path, planes: int = 1) -> None:
    """A time series of MetaMorph's."""
    said = [value for t in range(planes) for value in (0, 1, 2451545, 1000 * t, 2451545, 0)]
    tags = [(33628, 4, 2, [0, 0], True), (33629, 4, len(said), said, True)]
    tifffile.imwrite(path, GRAY, metadata=None, byteorder="<", extratags=tags)
    wrong, right = (struct.pack("<HHI", 33629, *what) for what in ((4, len(said)), (5, planes)))
    path.write_bytes(path.read_bytes().replace(wrong, right) + (planes - 1) * GRAY.tobytes())


@pytest.mark.parametrize(
    ("name", "write", "pixels"),
    [
        ("a.scn", write_scn, RGB),
        ("a.qptiff", write_qptiff, np.moveaxis(PLANES, 0, -1)),
        ("a.lsm", write_lsm, np.moveaxis(PLANES[:3], 0, -1)),
        ("a.stk", write_stk, GRAY[..., None]),
    ],
)
def test_microscopes_own_kinds_of_tiff(
    tmp_path: Path, name: str, write: Callable[[Path], None], pixels: NDArray[np.generic]
) -> None:
    path = tmp_path / name
    write(path)
    image = open_windows(str(path))
    assert image is not None
    assert np.array_equal(decode_image(path.read_bytes(), name, ReaderSettings()), pixels)
    assert np.array_equal(image.read(Box(10, 20, 90, 95)), pixels[10:90, 20:95])


def test_a_series_in_time_is_a_stack(tmp_path: Path) -> None:
    write_stk(tmp_path / "a.stk", 2)
    for error in read_both(tmp_path / "a.stk"):
        assert (error.code, "with axes TYX" in error.message) == ("layout", True)


def test_a_slide_whose_tiles_overlap_is_refused(tmp_path: Path) -> None:
    how = {"metadata": None, "photometric": "rgb", "extratags": [(700, 1, 7, b"<iScan>", True)]}
    with tifffile.TiffWriter(tmp_path / "a.bif") as file:
        file.write(RGB[:50, :50], description="Label_Image", software="ScanOutputManager", **how)
        file.write(RGB, description="level=0 mag=40 quality=95", tile=(64, 64), **how)
    for error in read_both(tmp_path / "a.bif"):
        assert (error.code, "Ventana BIF" in error.message) == ("layout", True)


def test_luminance_in_jpeg_2000_of_aperio_is_colour(tmp_path: Path) -> None:
    """Though the file says that it is colour already."""
    smooth = np.asarray(Image.fromarray(RGB[:4, :6]).resize((W, H), Image.Resampling.BICUBIC))
    stored = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    path = tmp_path / "a.svs"
    tifffile.imwrite(
        path, stored, photometric="rgb", tile=(64, 64), compression="aperio_jp2000_ycbc",
        compressionargs={"level": 0, "mct": False},
    )  # fmt: skip
    found = open_windows(str(path)).read(Box(0, 0, H, W))
    assert np.abs(found.astype(int) - smooth).max() <= 3
    assert np.array_equal(decode_image(path.read_bytes(), "a.svs", ReaderSettings()), found)


@pytest.mark.parametrize("name", ["tiles", "strips", "no compression", "ome, channels as pages"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_truncated_tiff_is_damage(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / "image.tif"
    TIFFS[name](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])

    def read_all() -> None:
        open_windows(str(path)).read(Box(0, 0, H, W))

    with pytest.raises(RejectError) as caught:
        read_all()
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("how", ["too few bytes", "zeros at the end"])
def test_a_jpeg_tile_that_is_cut_short_is_damage(tmp_path: Path, how: str) -> None:
    """The decoder would make up the rest of it."""
    path = tmp_path / "image.tif"
    TIFFS["colour, jpeg"](path)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        offset, counts = page.dataoffsets[0], list(page.databytecounts)
        if how == "too few bytes":
            counts[0] -= 20
            page.tags["TileByteCounts"].overwrite(counts)
    if how == "zeros at the end":
        data = bytearray(path.read_bytes())
        end = offset + counts[0]
        data[end - 20 : end] = bytes(20)
        path.write_bytes(data)
    for error in read_both(path):
        assert (error.code, "tile 0" in error.message) == ("corrupt", True)


def test_pieces_of_a_jpeg_need_no_end_of_their_own(tmp_path: Path) -> None:
    """As Hamamatsu cuts the one JPEG of an image, at its restart markers."""
    path, file = tmp_path / "slide.tif", io.BytesIO()
    Image.fromarray(INDICES[:64, :128]).save(file, "JPEG", restart_marker_blocks=8)
    data = file.getvalue()
    scan = data.index(b"\xff\xda") + 2
    first = scan + int.from_bytes(data[scan : scan + 2], "big")
    starts = [first, *(m.end() for m in re.finditer(rb"\xff[\xd0-\xd7]", data[first:]))]
    starts[1:] = [first + start for start in starts[1:]]
    said = [(271, 2, None, "Hamamatsu", True), (65420, 4, 1, 1, True)]
    tifffile.imwrite(
        path, iter([data]), shape=(64, 128), dtype=np.uint8, compression="jpeg", rowsperstrip=64,
        metadata=None, extratags=[*said, (65426, 4, len(starts), starts, True)],
    )  # fmt: skip
    expected = np.asarray(Image.open(file))
    image = open_windows(str(path))
    assert image is not None
    assert len(image.planes[0].offsets) == 16
    whole = decode_image(path.read_bytes(), path.name, ReaderSettings())
    for found in (image.read(Box(0, 0, 64, 128)), whole):
        assert np.array_equal(found[..., 0], expected)


def read_both(path: Path) -> list[RejectError]:
    """What is said of a bad file, at once and by window."""

    def by_window() -> None:
        open_windows(str(path)).read(Box(0, 0, 9, 9))

    def at_once() -> None:
        decode_image(path.read_bytes(), path.name, ReaderSettings())

    rejects = []
    for read in (at_once, by_window):
        with pytest.raises(RejectError) as caught:
            read()
        rejects.append(caught.value)
    return rejects


@pytest.mark.parametrize(
    ("name", "tag", "value"),
    [
        ("strips", "RowsPerStrip", 0),
        ("tiles", "TileWidth", 0),
        ("tiles", "TileLength", 0),
        ("tiles", "BitsPerSample", 0),
        ("colour", "SamplesPerPixel", 0),
        ("ome, channels as pages", "ImageWidth", 0),
        ("palette", "BitsPerSample", 16),
        ("one run of numbers", "StripOffsets", 0),
    ],
)
def test_a_tiff_that_contradicts_itself_is_one_reject(
    tmp_path: Path, name: str, tag: str, value: int
) -> None:
    path = tmp_path / "image.tif"
    retagged(TIFFS[name], tag, value)(path)
    for reject in read_both(path):
        assert reject.code in ("corrupt", "layout")


def test_planes_that_are_not_in_the_file_are_not_made_up(tmp_path: Path) -> None:
    """As of an OME-TIFF of several files; tiles that are left out are something else."""
    path = tmp_path / "image.tif"
    TIFFS["ome, channels as pages"](path)
    metadata = tifffile.TiffFile(path).ome_metadata
    retagged(TIFFS["ome, channels as pages"], 270, metadata.replace('SizeC="5"', 'SizeC="7"'))(path)
    for reject in read_both(path):
        assert (reject.code, reject.message) == (
            "layout", "says it has planes that are not in this file"
        )  # fmt: skip
    sparse = tmp_path / "sparse.tif"
    tiles = (None if i else GRAY[:64, :64] for i in range(5 * 7))
    tifffile.imwrite(
        sparse, tiles, shape=(H, W), dtype=np.uint16, tile=(64, 64), photometric="minisblack"
    )
    found = open_windows(str(sparse)).read(Box(0, 0, H, W))
    assert np.array_equal(found[:64, :64, 0], GRAY[:64, :64])
    assert not found[64:].any()
    assert np.array_equal(found, decode_image(sparse.read_bytes(), "a.tif", ReaderSettings()))


@pytest.mark.parametrize("side", [2**20, 2**31 - 1])
def test_a_tiff_with_absurd_dimensions(tmp_path: Path, side: int) -> None:
    path = tmp_path / "image.tif"
    TIFFS["tiles"](path)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages[0]
        for name in ("ImageWidth", "ImageLength"):
            tag = page.tags[name]
            tag.overwrite(side, dtype="I")
    with pytest.raises(RejectError) as caught:
        open_windows(str(path))
    assert caught.value.code in ("corrupt", "too_large")


@pytest.mark.parametrize("version", [2, 3])
def test_a_level_that_a_zarr_has_not_is_told(tmp_path: Path, version: int) -> None:
    write_zarr(tmp_path / "a.zarr", version, "yx")
    shutil.rmtree(tmp_path / "a.zarr/1")
    with pytest.raises(RejectError, match="its level 1 is not there") as caught:
        open_windows(str(tmp_path / "a.zarr"))
    assert caught.value.code == "corrupt"


@pytest.mark.parametrize("version", [2, 3])
def test_of_several_images_in_a_zarr_the_first_is_read(tmp_path: Path, version: int) -> None:
    """As bioformats2raw lays out a slide, with its label and overview as further images."""
    path = tmp_path / "slide.zarr"
    layout = {"bioformats2raw.layout": 3}
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    group.attrs.update(layout if version == 2 else {"ome": {"version": "0.5"} | layout})
    pixels = write_zarr(path / "0", version, "tczyx")
    write_zarr(path / "1", version, "yx")
    image = open_windows(str(path))
    assert image is not None
    assert np.array_equal(image.read(Box(0, 0, H, W)), pixels)
    assert open_windows(str(path), LevelChoice(level=1)).shape == (H // 2, W // 2, 5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"plate": {}}, "is a plate"),
        ({}, "has no multiscales"),
        ({"multiscales": [{"axes": ["y", "x"], "datasets": []}]}, "has no multiscales"),
        ({"multiscales": [{"datasets": [{"path": "0"}]}]}, "has metadata that does not say where"),
        (
            {"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]},
            r"has axes cyx, and a level 0 of shape \(5, 7\)",
        ),
    ],
)
def test_a_zarr_that_is_no_image_is_said_so(
    tmp_path: Path, attributes: dict[str, object], message: str
) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=GRAY[:5, :7])
    group.attrs.update(attributes)
    with pytest.raises(RejectError, match=message) as caught:
        open_windows(str(tmp_path / "a.zarr"))
    assert caught.value.code == "layout"


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_that_is_packed_in_an_unknown_way_is_said_so(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.zarr"
    write_zarr(path, version, compressors=numcodecs.Zstd() if version == 2 else ZstdCodec())
    document = path / "0" / (".zarray" if version == 2 else "zarr.json")
    document.write_text(document.read_text().replace('"zstd"', '"brand-new"'))
    with pytest.raises(RejectError, match=r"not supported \(.*brand-new.*store it with") as caught:
        open_windows(str(path))
    assert caught.value.code == "layout"


def test_an_array_that_is_no_image_is_said_so(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), data=GRAY)
    with pytest.raises(RejectError, match="is a bare Zarr array") as caught:
        open_windows(str(tmp_path / "a.zarr"))
    assert caught.value.code == "layout"


def test_a_folder_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_zarr(path, 2)
    shutil.rmtree(path / "0")
    with pytest.raises(RejectError, match="its level 0 is not there") as caught:
        open_windows(str(path))
    assert "0x" not in caught.value.message
    empty = tmp_path / "empty.zarr"
    empty.mkdir()
    with pytest.raises(RejectError, match=r"no OME-Zarr image.*empty\.zarr"):
        open_windows(str(empty))
    stack = tmp_path / "stack.zarr"
    group = zarr.open_group(str(stack), mode="w", zarr_format=2)
    group.create_array("0", data=PLANES)
    group.attrs["multiscales"] = [{"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]
    with pytest.raises(RejectError, match="one plane an image is supported"):
        open_windows(str(stack))
