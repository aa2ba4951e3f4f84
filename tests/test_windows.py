"""Images that are read by window: what a window holds is what the whole image holds there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.errors import RejectError
from pipeline.images.reader import decode_image
from pipeline.images.windows import LevelChoice, open_windows
from pipeline.records import Box

H, W = 300, 410
BOXES = [Box(0, 0, H, W), Box(10, 20, 11, 21), Box(64, 64, 128, 192), Box(250, 333, H, W)]
GRAY = np.random.default_rng(0).integers(0, 60_000, (H, W)).astype(np.uint16)
RGB = np.random.default_rng(1).integers(0, 255, (H, W, 3)).astype(np.uint8)
PLANES = np.random.default_rng(2).integers(0, 60_000, (5, H, W)).astype(np.uint16)


def tiff(pixels: NDArray[np.generic], **how: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **how)


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


def write_zarr(path: Path, version: int, axes: str = "yx", compressed: bool = True) -> NDArray:
    """An OME-Zarr image of two levels; returns its pixels as (H, W, C)."""
    pixels = {"yx": GRAY, "cyx": PLANES, "tczyx": PLANES[None, :, None]}[axes]
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    scale = [1.0] * (len(axes) - 2)
    datasets = []
    for level, step in enumerate((1, 2)):
        data = np.ascontiguousarray(pixels[..., ::step, ::step])
        chunks = (1,) * (len(axes) - 2) + (64, 80)
        group.create_array(
            str(level), data=data, chunks=chunks, **({} if compressed else {"compressors": None})
        )
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


def test_a_chunk_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_zarr(path, 2, compressed=False)
    chunk = path / "0" / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-100])
    with pytest.raises(RejectError, match="damaged Zarr"):
        open_windows(str(path)).read(Box(0, 0, 10, 10))


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


def test_a_folder_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "image.zarr"
    write_zarr(path, 2)
    shutil.rmtree(path / "0")
    with pytest.raises(RejectError, match="no OME-Zarr image"):
        open_windows(str(path))
    stack = tmp_path / "stack.zarr"
    group = zarr.open_group(str(stack), mode="w", zarr_format=2)
    group.create_array("0", data=PLANES)
    group.attrs["multiscales"] = [{"axes": ["z", "y", "x"], "datasets": [{"path": "0"}]}]
    with pytest.raises(RejectError, match="one plane an image is supported"):
        open_windows(str(stack))
