"""Exports say what the tables say, in the words of other tools."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import shapely
import tifffile
import zarr
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from jobs import export
from jobs._main import run_job
from pipeline.config import ExportSettings, MethodSettings
from pipeline.exporting import FORMATS, choose_images
from pipeline.methods import build_method
from pipeline.predicting.objects import measure_objects
from pipeline.records import ClassSpec, PredictedImage, Segmentation, SourceImage
from pipeline.synthetic import CLASSES
from pipeline.tables import masks
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles
from pipeline.tables.rewrite import Rewrite, rewrite, sweep
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec
from tests.large_images import imagined_maps, nasty_scene


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> OutputDataset:
    """Two images of several tiles each, of the same name in different folders, and one more."""
    method = build_method(MethodSettings(name="instance", reach=32), CLASSES)
    spec = DatasetSpec(classes=CLASSES, model="model", settings={})
    found = OutputDataset.accepting(str(tmp_path_factory.mktemp("out")), spec)
    found.create()
    images = []
    for name, seed, shape in (("a/one.tif", 1, (500, 331)), ("b/one.tif", 2, (130, 600)),
                              ("b/two.tif", 3, (64, 64))):  # fmt: skip
        pixels, label = nasty_scene(*shape, seed, foreground=2)
        label.semantic[label.instances % 3 == 1] = 3
        decoded = method.decode(imagined_maps(method, label, seed))
        measures = measure_objects(decoded.instances, pixels, len(decoded.class_ids))
        source = SourceImage(str(seed) * 12, f"s3://bucket/{name}", "1", 1)
        images.append(PredictedImage(source, pixels.shape, decoded, measures))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "TILE", 200)
        commit_shard(found.uri, images, [], CLASSES, Provenance("shard", "run", "model"))
    return found


def labelled(
    folder: Path,
    labels: np.ndarray,
    size: tuple[int, int] | None = None,
    name: str = "image",
) -> OutputDataset:
    """A dataset of one image with these objects, which says to be of another size if you like.

    Called again with another name, it has one more, in a shard of its own.
    """
    spec = DatasetSpec(classes=CLASSES, model="model", settings={})
    dataset = OutputDataset.accepting(str(folder), spec)
    dataset.create()
    n = int(labels.max())
    found = Segmentation(
        np.where(labels > 0, 2, 0).astype(np.uint8), labels,
        np.full(n, 2, np.uint8), np.ones(n, np.float32),
    )  # fmt: skip
    measures = measure_objects(labels, np.zeros((*labels.shape, 1), np.uint8), n)
    source = SourceImage(f"id of {name}", f"s3://bucket/{name}.tif", "1", 1)
    image = PredictedImage(source, (*(size or labels.shape), 1), found, measures)
    commit_shard(
        dataset.uri, [image], [], CLASSES, Provenance(f"{len(name)}{name[:9]}", "run", "model")
    )
    return dataset


def truth(dataset: OutputDataset, seed: int) -> np.ndarray:
    where = pc.field("image_id") == str(seed) * 12
    (row,) = dataset.read("images", ["height", "width"], where).to_pylist()
    columns = ["y0", "x0", "y1", "x1", "semantic", "instances", "object_ids"]
    tiles = dataset.read("masks", columns, where).to_pylist()
    assert seed == 3 or len(tiles) > 2
    return decode_tiles(tiles, row["height"], row["width"])[1]


def exported(dataset: OutputDataset, kind: str, folder: Path, *flags: str) -> list[Path]:
    words = [dataset.uri, "--to", kind, "--target", str(folder), *flags]
    assert run_job(ExportSettings, export.work, words) == 0
    return sorted(file for file in folder.iterdir() if file.name != "export.json")


def test_label_tiffs(dataset: OutputDataset, tmp_path: Path) -> None:
    files = exported(dataset, "tiff", tmp_path)
    assert len(files) == 3
    assert files[-1].name == "two.tif"
    found = [tifffile.imread(file) for file in files]
    assert any(np.array_equal(found[i], truth(dataset, 1)) for i in (0, 1))
    assert any(np.array_equal(found[i], truth(dataset, 2)) for i in (0, 1))
    assert np.array_equal(found[2], truth(dataset, 3))


def test_a_pyramid_of_labels(dataset: OutputDataset, tmp_path: Path) -> None:
    (folder,) = exported(dataset, "ome-zarr", tmp_path, "--images", "*/a/*")
    group = zarr.open_group(str(folder), mode="r")
    (multiscale,) = group.attrs["multiscales"]
    assert [entry["path"] for entry in multiscale["datasets"]] == ["0", "1"]
    whole = truth(dataset, 1)
    for level, step in ((0, 1), (1, 2)):
        assert np.array_equal(group[str(level)][:], whole[::step, ::step])


@pytest.mark.parametrize("kind", ["tiff", "geojson", "ome-zarr", "coco"])
def test_a_name_that_is_too_long_for_a_file_is_cut(tmp_path: Path, kind: str) -> None:
    """A key of an object store may have a thousand bytes."""
    labels = np.pad(np.ones((4, 4), np.int32), 4)
    dataset = labelled(tmp_path / "out", labels, name="ü" * 490)
    (file,) = exported(dataset, kind, tmp_path / "export")
    assert file.name.startswith("instances" if kind == "coco" else "ü" * 100 + "-id of")


def test_a_pyramid_of_few_labels_or_none(tmp_path: Path) -> None:
    """Chunks that hold nothing are not written, nor left from an export before."""
    full, sparse, empty = (np.zeros((1100, 700), np.int32) for _ in range(3))
    full[:] = 1
    sparse[1000:1010, 600:620] = 1
    for name, labels in (("full", full), ("sparse", sparse), ("empty", empty)):
        (folder,) = exported(labelled(tmp_path / name, labels), "ome-zarr", tmp_path / "out")
        group = zarr.open_group(str(folder), mode="r")
        levels = [entry["path"] for entry in group.attrs["multiscales"][0]["datasets"]]
        for level in levels:
            step = 2 ** int(level)
            assert np.array_equal(group[level][:], labels[::step, ::step]), (name, level)


def test_polygons_cover_the_pixels_of_objects(dataset: OutputDataset, tmp_path: Path) -> None:
    (file,) = exported(dataset, "geojson", tmp_path, "--images", "two.tif")
    found = json.loads(file.read_text())
    whole = truth(dataset, 3)
    areas = np.bincount(whole.ravel())
    assert len(found["features"]) == len(areas) - 1
    for feature in found["features"]:
        polygon = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert polygon.is_valid
        told = feature["properties"]
        assert polygon.area == areas[feature["id"]] == told["area"]
        # As QuPath has them; GIS tools read what is beside.
        assert told["measurements"] == {"score": told["score"], "area": told["area"]}
        y, x = np.nonzero(whole == feature["id"])
        assert shapely.contains_xy(polygon, x + 0.5, y + 0.5).all()


def test_coco_loads_with_pycocotools(dataset: OutputDataset, tmp_path: Path) -> None:
    (file,) = exported(dataset, "coco", tmp_path)
    coco = COCO(str(file))
    assert {c["name"] for c in coco.loadCats(coco.getCatIds())} == {"cell", "crystal"}
    names = [image["file_name"] for image in coco.loadImgs(coco.getImgIds())]
    assert names == ["a/one.tif", "b/one.tif", "b/two.tif"]  # from the folder they are all in
    for seed, image_id in ((1, 1), (2, 2), (3, 3)):
        whole = truth(dataset, seed)
        drawn = np.zeros_like(whole)
        for i, annotation in enumerate(coco.loadAnns(coco.getAnnIds(imgIds=[image_id])), 1):
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation["area"] == coco_mask.area(coco.annToRLE(annotation))
            y, x = np.nonzero(mask)
            x0, y0, width, height = annotation["bbox"]
            assert (x.min(), y.min()) == (x0, y0)
            assert (np.ptp(x) + 1, np.ptp(y) + 1) == (width, height)
            drawn[mask > 0] = i
        pairs = np.unique(np.stack([drawn.ravel(), whole.ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(whole))


@pytest.mark.parametrize("kind", ["tiff", "ome-zarr", "geojson", "coco"])
def test_only_what_an_export_wrote_is_written_over(
    dataset: OutputDataset, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    own = tmp_path / "mine/two.tif"
    own.write_bytes(b"the image itself")
    words = [dataset.uri, "--to", kind, "--images", "two.tif", "--target", str(own.parent)]
    assert run_job(ExportSettings, export.work, words) == 2
    assert "holds two.tif, which no export wrote" in capsys.readouterr().err
    assert own.read_bytes() == b"the image itself"
    assert list(own.parent.iterdir()) == [own]
    once = exported(dataset, kind, tmp_path / "new", "--images", "two.tif")
    assert once == exported(dataset, kind, tmp_path / "new", "--images", "two.tif")


def test_an_image_that_coco_cannot_count_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    side = 1 << 16
    dataset = labelled(tmp_path / "out", np.ones((8, 8), np.int32), (side, side))
    words = [dataset.uri, "--to", "coco", "--target", str(tmp_path / "coco")]
    assert run_job(ExportSettings, export.work, words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "s3://bucket/image.tif has 65536 x 65536 pixels" in told
    assert "--to geojson" in told
    assert not (tmp_path / "coco/instances.json").exists()


@pytest.mark.parametrize("kind", ["tiff", "ome-zarr", "geojson", "coco"])
def test_an_image_is_read_from_its_shard_alone(kind: str, tmp_path: Path) -> None:
    """So that it costs the same however large the dataset is: nothing else of it is looked at."""
    for name in ("one", "two"):
        dataset = labelled(tmp_path / "out", np.eye(40, dtype=np.int32), name=name)
    for table in ("objects", "masks"):
        (tmp_path / f"out/{table}/twos.parquet").write_bytes(b"damaged")
    assert exported(dataset, kind, tmp_path / "to", "--images", "one.tif")


def test_images_that_are_moved_meanwhile_are_exported_all_the_same(tmp_path: Path) -> None:
    labels = [np.eye(40, dtype=np.int32) * i for i in (1, 0)]
    for name, one in zip(("one", "two"), labels, strict=True):
        dataset = labelled(tmp_path / "out", one, name=name)
    held = dataset.at_one_moment()
    images = choose_images(held, None)
    FORMATS["tiff"](held, images[0], str(tmp_path))
    before = dataset.snapshot()
    rewrite(before, Rewrite(tuple(before.shards), ""), lambda: None)
    sweep(dataset.snapshot(), lambda: None)
    assert not before.shards.keys() & dataset.snapshot().shards.keys()
    FORMATS["tiff"](held, images[1], str(tmp_path))
    for name, one in zip(("one", "two"), labels, strict=True):
        assert np.array_equal(tifffile.imread(tmp_path / f"{name}.tif"), one)


def test_nothing_to_export_is_told(dataset: OutputDataset, capsys: pytest.CaptureFixture) -> None:
    words = [dataset.uri, "--to", "coco", "--images", "*.png"]
    assert run_job(ExportSettings, export.work, words) == 1
    assert "holds no image that matches *.png" in capsys.readouterr().err


def test_classes_of_pixels_alone_have_nothing_to_export(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Instead of a folder of empty label images."""
    classes = (ClassSpec(id=0, name="sky", kind="stuff"),)
    dataset = OutputDataset.accepting(
        str(tmp_path / "out"), DatasetSpec(classes=classes, model="model", settings={})
    )
    dataset.create()
    words = [dataset.uri, "--to", "tiff", "--target", str(tmp_path / "tiffs")]
    assert run_job(ExportSettings, export.work, words) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "has no class of things, so no objects to export; its class maps are the PNGs" in told
    assert not (tmp_path / "tiffs").exists()
