"""The picture of a dataset shows what is still there, and says what is not."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline import overlay
from pipeline.drawing import Picture, class_colours, legend
from pipeline.predicting.objects import measure_objects
from pipeline.records import ClassSpec, PredictedImage, Segmentation, SourceImage
from pipeline.synthetic import CLASSES
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec

NAMES = ("a.tif", "b.tif", "c.tif", "d.tif")


@pytest.fixture
def dataset(tmp_path: Path) -> OutputDataset:
    """Four images alike, each with one object."""
    spec = DatasetSpec(classes=CLASSES, model="model", settings={})
    found = OutputDataset.accepting(str(tmp_path / "out"), spec)
    found.create()
    instances = np.zeros((60, 80), np.int32)
    instances[20:40, 30:50] = 1
    pixels = (instances[..., None] * 150 + 50).astype(np.uint8)
    segmentation = Segmentation(
        (instances * 2).astype(np.uint8), instances, np.array([2], np.uint8), np.ones(1, np.float32)
    )
    images = []
    for name in NAMES:
        tifffile.imwrite(tmp_path / name, pixels[..., 0])
        source = SourceImage(name, str(tmp_path / name), "1", 1)
        measures = measure_objects(instances, pixels, 1)
        images.append(PredictedImage(source, pixels.shape, segmentation, measures))
    commit_shard(found.uri, images, [], CLASSES, Provenance("shard", "run", "model"))
    return found


def test_images_that_are_gone_or_changed_are_told_in_their_place(
    dataset: OutputDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    real = overlay.frame

    def frame(picture: Picture, side: int, caption: str) -> Picture:
        told.append(caption)
        assert picture.any() == caption.endswith("object")
        return real(picture, side, caption)

    monkeypatch.setattr(overlay, "frame", frame)
    before = overlay.draw_sheet(dataset, 4, 200)
    assert told == [f"{name}: 1 object" for name in NAMES]
    (tmp_path / "b.tif").unlink()
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((80, 60), np.uint8))
    (tmp_path / "d.tif").write_bytes(b"II*\0 no longer an image")
    told.clear()
    after = overlay.draw_sheet(dataset, 4, 200)
    assert told == ["a.tif: 1 object", "b.tif: gone", "c.tif: changed", "d.tif: changed"]
    assert after.shape == before.shape
    assert np.array_equal(after[:206, :206], before[:206, :206])


@pytest.mark.parametrize(("side", "shown"), [(60, (60, 80)), (30, (60, 67)), (10, (22, 22))])
def test_objects_are_large_enough_to_be_seen(
    dataset: OutputDataset, monkeypatch: pytest.MonkeyPatch, side: int, shown: tuple[int, int]
) -> None:
    """Of an image with many small ones the middle is drawn."""
    told: list[tuple[tuple[int, ...], str]] = []
    real, frame = overlay.draw, overlay.frame
    monkeypatch.setattr(
        overlay, "draw", lambda p, *rest: told.append(p.shape[:2]) or real(p, *rest)
    )
    monkeypatch.setattr(overlay, "frame", lambda *given: told.append(given[2]) or frame(*given))
    overlay.draw_sheet(dataset, 1, side)
    assert told == [shown, "a.tif: 1 object" + ("" if shown == (60, 80) else ", its middle")]


def test_what_is_drawn_is_read_and_no_more(dataset: OutputDataset, tmp_path: Path) -> None:
    """A picture of nine images costs the same however many others there are."""
    alone = overlay.draw_sheet(dataset, 1, 200)
    nothing = np.zeros((60, 80), np.int32)
    found = Segmentation(
        nothing.astype(np.uint8), nothing, np.zeros(0, np.uint8), np.zeros(0, np.float32)
    )
    measures = measure_objects(nothing, np.zeros((60, 80, 1), np.uint8), 0)
    source = SourceImage("z", str(tmp_path / "z.tif"), "1", 1)
    other = PredictedImage(source, (60, 80, 1), found, measures)
    commit_shard(dataset.uri, [other], [], CLASSES, Provenance("other", "run", "model"))
    for table in ("objects", "masks", "counts"):
        (tmp_path / f"out/{table}/other.parquet").write_bytes(b"damaged")
    assert np.array_equal(overlay.draw_sheet(dataset, 1, 200), alone)


@pytest.mark.parametrize("n", [3, 19])
def test_a_legend_shows_every_class_in_a_colour_of_its_own(n: int) -> None:
    names = [f"traffic participant {i}" for i in range(n)]
    classes = tuple(ClassSpec(id=7 + i, name=name, kind="stuff") for i, name in enumerate(names))
    strip = legend(classes, 984)
    colours = list(class_colours(classes).values())
    assert len(set(colours)) == n
    assert all((strip == colour).all(-1).sum() >= 100 for colour in colours)
    assert strip.shape[1] == 984
