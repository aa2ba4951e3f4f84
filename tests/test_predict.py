"""Prediction as a user runs it: laws 1, 4 and 6, on real files, Ray and Parquet."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask

from jobs import count, overlay, predict
from pipeline.config import CountSettings, OverlaySettings, PredictSettings
from pipeline.distributed import rounds
from pipeline.distributed.backfill import Backfill
from pipeline.drawing import COLOURS
from pipeline.errors import BundleError, DataError, DatasetError, SettingsError, StorageError
from pipeline.records import CountCalibration, reported
from pipeline.synthetic import CLASSES, FORMATS, encode_image, make_scene, write_annotated
from pipeline.tables.dataset import OutputDataset
from tests.conftest import ROOT
from tests.test_reader import BAD

pytestmark = pytest.mark.usefixtures("ray_cluster")


def settings(images: str, model: str, output: Path, **more: object) -> PredictSettings:
    values = {"images_per_shard": 3, "max_reject_share": 1.0} | more
    return PredictSettings(input=images, model=model, output=str(output), **values)


def sql(output: Path, query: str) -> list[tuple[object, ...]]:
    """Ask plain DuckDB over a plain glob, as README says."""
    for table in ("images", "objects", "counts", "masks", "rejects"):
        query = query.replace(f"${table}", f"read_parquet('{output}/{table}/**/*.parquet')")
    return duckdb.sql(query).fetchall()


def files(output: Path) -> dict[Path, int]:
    """Every file with the time when it was written; the lease is taken and given back."""
    found = (p for p in output.rglob("*") if p.is_file() and p.parent.name != "_lease")
    return {p: p.stat().st_mtime_ns for p in found}


@pytest.fixture(scope="module")
def first(trained: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Good images of every format among one bad file of every kind, and their prediction."""
    folder = tmp_path_factory.mktemp("first")
    sizes = [(96, 96), (77, 130), (128, 64), (1, 1), (33, 200), (90, 90), (96, 96)]
    write_annotated(str(folder), sizes, ["test"] * len(sizes), seed=50)
    images = folder / "images"
    for kind, (data, name) in BAD.items():
        (images / f"bad-{kind}{Path(name).suffix}").write_bytes(data)
    assert predict.work(settings(str(images), trained, folder / "out")) == 0
    return str(images), folder / "out"


@pytest.fixture
def images(first: tuple[str, Path]) -> Iterator[str]:
    """What `output` was predicted from; what a test adds is gone after it."""
    before = set(Path(first[0]).iterdir())
    yield first[0]
    for added in set(Path(first[0]).iterdir()) - before:
        added.unlink()


@pytest.fixture
def output(first: tuple[str, Path], tmp_path: Path) -> Path:
    """The prediction of `images`, a test's own copy."""
    shutil.copytree(first[1], tmp_path / "out")
    return tmp_path / "out"


def test_every_image_is_a_row_or_a_reject_with_its_reason(output: Path, images: str) -> None:
    good = {p.name for p in Path(images).iterdir() if "bad-" not in p.name}
    rows = sql(output, "select uri, height, width, n_objects from $images")
    assert {Path(str(row[0])).name for row in rows} == good
    assert len(rows) == len(good)
    rejects = sql(output, "select uri, stage, code, message from $rejects")
    named = {Path(str(uri)).stem: (stage, code) for uri, stage, code, _ in rejects}
    assert named == {f"bad-{kind}": ("read", kind.partition("-")[0]) for kind in BAD}
    assert len(rejects) == len(BAD)
    assert sum(int(str(row[3])) for row in rows) > 20
    assert (1, 1) in {row[1:3] for row in rows}


def test_tables_agree_with_one_another(output: Path) -> None:
    disagree = sql(
        output,
        """
        select c.image_id, c.class_name, c.n_objects, count(o.object_id)
        from $counts c left join $objects o using (image_id, class_id)
        where c.n_objects is not null
        group by c.image_id, c.class_name, c.n_objects, c.object_area
        having c.n_objects <> count(o.object_id) or c.object_area <> coalesce(sum(o.area), 0)
        """,
    )
    assert disagree == []
    assert sql(output, "select sum(n_objects) from $images") == sql(
        output, "select count(*) from $objects"
    )
    assert sql(output, "select distinct class_name from $counts order by 1") == [
        ("cell",), ("crystal",), ("tissue",)
    ]  # fmt: skip


def test_objects_are_the_labels_in_the_masks(output: Path) -> None:
    checked = 0
    for image_id, semantic, instances, ids in sql(
        output, "select image_id, semantic, instances, object_ids from $masks"
    ):
        labels = cv2.imdecode(np.frombuffer(instances, np.uint8), cv2.IMREAD_UNCHANGED)
        classes = cv2.imdecode(np.frombuffer(semantic, np.uint8), cv2.IMREAD_UNCHANGED)
        rows = sql(
            output,
            "select object_id, class_id, area, y0, x0, y1, x1, rle from $objects "
            f"where image_id = '{image_id}' order by object_id",
        )
        assert [row[0] for row in rows] == list(ids) == list(range(1, labels.max() + 1))
        for object_id, class_id, area, y0, x0, y1, x1, rle in rows:
            mask = labels == object_id
            assert mask.sum() == area
            assert set(np.unique(classes[mask])) == {class_id}
            size = [y1 - y0, x1 - x0]
            inner = coco_mask.decode({"size": size, "counts": rle.encode()})
            assert np.array_equal(inner > 0, mask[y0:y1, x0:x1])
            checked += 1
        for class_id, pixels in sql(
            output, f"select class_id, pixels from $counts where image_id = '{image_id}'"
        ):
            assert (classes == class_id).sum() == pixels
    assert checked > 20


def test_the_same_command_again_does_nothing(
    output: Path, images: str, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(output)
    assert predict.work(settings(images, trained, output)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert files(output) == before


def test_only_what_is_new_is_computed(output: Path, images: str, trained: str) -> None:
    (Path(images) / "new.png").write_bytes(encode_image(make_scene(50, 60, 4, 99).image, "png"))
    with Backfill(settings(images, trained, output)).plan() as work:
        planned = [uri for batch in work.plan.batches() for uri in batch["uri"].to_pylist()]
    assert planned == [f"{images}/new.png"]
    before = sql(output, "select count(*) from $images")[0][0]
    predict.work(settings(images, trained, output))
    assert sql(output, "select count(*), count(distinct uri) from $images") == [
        (before + 1, before + 1)
    ]


def test_a_dry_run_writes_nothing(
    collection: str, trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(f"{collection}/images", trained, tmp_path / "out", dry_run=True)
    assert predict.work(given) == 0
    assert "7 images, 0 done before, 7 to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_bytes(b"notes")
    with pytest.raises(StorageError, match="out is a file, not a folder"):
        predict.work(given)


def test_an_image_without_objects_is_a_result(trained: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(4):
        (images / f"{i}.png").write_bytes(cv2.imencode(".png", np.full((40, 50), i))[1].tobytes())
    assert predict.work(settings(str(images), trained, tmp_path / "out")) == 0
    assert sql(tmp_path / "out", "select count(*), sum(n_objects) from $images") == [(4, 0)]
    assert sql(tmp_path / "out", "select count(*) from $rejects") == [(0,)]
    assert sql(tmp_path / "out", "select count(*) from $counts") == [(12,)]


def test_too_many_rejects_is_exit_3(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, kept in enumerate((30, 30, 30, 30, 0, 10**6)):
        image = make_scene(40, 50, 4, i).image
        (images / f"{i}.png").write_bytes(encode_image(image, FORMATS[0])[:kept])
    given = settings(str(images), trained, tmp_path / "out", max_reject_share=0.2)
    assert predict.work(given) == 3
    told = capsys.readouterr()
    assert "83% of the images of the last run were rejected, over the limit of 20%" in told.err
    shown = [line for line in told.out.splitlines() if line.startswith(f"  {images}")]
    assert [line.split(": ")[1] for line in sorted(shown)] == ["corrupt", "empty"]
    # The same command again is what a cluster does with a job that has failed.
    assert Backfill(given).last_success is None
    assert predict.work(given) == 3
    assert predict.work(given.model_copy(update={"max_reject_share": 0.9})) == 0
    (images / "0.png").write_bytes(encode_image(make_scene(40, 50, 4, 9).image, FORMATS[0]))
    assert predict.work(given) == 0
    assert Backfill(given).last_success is not None


def test_a_limit_is_raised_for_what_it_has_refused(trained: str, tmp_path: Path) -> None:
    """Images that are done stay so."""
    images = tmp_path / "images"
    images.mkdir()
    for i, side in enumerate((40, 60)):
        picture = encode_image(make_scene(side, side, 4, i).image, FORMATS[0])
        (images / f"{i}.png").write_bytes(picture)
    low, high = {"max_pixels": 2000}, {"max_pixels": 4000}
    assert predict.work(settings(str(images), trained, tmp_path / "out", reader=low)) == 0
    before = sql(tmp_path / "out", "select uri, run from $images")
    given = settings(str(images), trained, tmp_path / "out", reader=high, retry_rejects=True)
    assert predict.work(given) == 0
    after = sql(tmp_path / "out", "select uri, run from $images")
    assert len(after) == 2
    assert set(before) < set(after)
    drawn = OverlaySettings(dataset=str(tmp_path / "out"), picture=str(tmp_path / "sheet.png"))
    assert overlay.work(drawn) == 0


@pytest.mark.slow
def test_files_of_others_in_the_output_stay(trained: str, images: str, tmp_path: Path) -> None:
    theirs = tmp_path / "taken/objects/2025/mine.parquet"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"holds objects and no dataset\.json"):
        predict.work(settings(images, trained, tmp_path / "taken"))
    assert [path for path in (tmp_path / "taken").rglob("*") if path.is_file()] == [theirs]
    beside = [
        tmp_path / "out" / name for name in ("notes.txt", ".rc.20240101", "counts/my.parquet")
    ]
    assert predict.work(settings(images, trained, tmp_path / "out")) == 0
    for path in beside:
        path.write_bytes(b"x")
    assert predict.work(settings(images, trained, tmp_path / "out", retry_rejects=True)) == 0
    assert all(path.read_bytes() == b"x" for path in beside)


@pytest.mark.parametrize("images_per_shard", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_manifest_with_what_can_not_be_read(
    images_per_shard: int,
    trained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Alone in its shard, too, an image that its store never gives costs no other."""
    monkeypatch.setattr(rounds, "_WAIT_SECONDS", (0.01, 0.01))
    image = encode_image(make_scene(40, 50, 4, 0).image, "png")
    (tmp_path / "here.png").write_bytes(image)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "list.csv").write_text("uri\nhere.png\ngone.png\nfolder.png\nhere.png/in.png\n")
    given = settings(
        str(tmp_path / "list.csv"), trained, tmp_path / "out", images_per_shard=images_per_shard
    )
    assert predict.work(given) == 0
    assert sql(tmp_path / "out", "select code, uri from $rejects order by code, uri") == [
        ("not_found", f"{tmp_path}/gone.png"),
        ("unreadable", f"{tmp_path}/folder.png"),
        ("unreadable", f"{tmp_path}/here.png/in.png"),
    ]
    hint = "3 rejects of the last run may be due to the store or the credentials (not_found, "
    assert hint in capsys.readouterr().out
    assert predict.work(given) == 0
    told = capsys.readouterr().out
    assert "nothing to do" in told
    assert hint in told
    assert "--retry-rejects" in told
    assert sql(tmp_path / "out", "select uri from $images") == [(f"{tmp_path}/here.png",)]


def test_other_results_are_not_mixed_in(output: Path, images: str, trained: str) -> None:
    given = settings(images, trained, output, vote_blur=0.9)
    with pytest.raises(
        DatasetError, match=r"vote-blur as by default, not 0\.9: give another --output, or"
    ):
        Backfill(given)
    with Backfill(settings(images, trained, output, workers=1)).plan() as work:
        assert work.nothing


def test_a_model_that_is_replaced_during_a_run_predicts_nothing(
    trained: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training may end where the model lies, and rows say which model they are of."""
    model = shutil.copytree(trained, tmp_path / "model")
    begin = Backfill._begin

    def then_trained_anew(*given: object) -> object:
        run = begin(*given)  # type: ignore[arg-type]
        for name in ("bundle.json", "weights.safetensors"):
            shutil.copy(ROOT / "models/nuclei" / name, model / name)
        return run

    monkeypatch.setattr(Backfill, "_begin", then_trained_anew)
    with pytest.raises(BundleError, match="not the model any more"):
        predict.work(settings(images, str(model), tmp_path / "out"))
    assert not list((tmp_path / "out").glob("images/**/*.parquet"))


def test_who_waited_for_the_lease_looks_again(
    output: Path, images: str, trained: str, tmp_path: Path
) -> None:
    """Two commands began on an empty output, and one was the first to write."""
    waited = tmp_path / "waited"
    other = Backfill(settings(images, trained, waited, vote_blur=0.9))
    same = Backfill(settings(images, trained, waited))
    shutil.copytree(output, waited)
    learned = {1: CountCalibration(5, 1.2, 0.1, 0.3, 0.2)}
    dataset = OutputDataset.open(str(waited))
    dataset.calibrate({dataset.spec.results: learned})
    before = files(waited)
    with (
        pytest.raises(
            DatasetError, match=r"vote-blur as by default, not 0\.9: give another --output"
        ),
        other.lease(print, print),
    ):
        pytest.fail("it may write")
    with same.lease(print, print), same.plan() as work:
        assert work.nothing
        same.dataset.create()
    assert files(waited) == before
    spec = OutputDataset.open(str(waited)).spec
    assert spec.counts[spec.results] == learned


def test_wrong_inputs_are_one_line(collection: str, trained: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        Backfill(settings(str(tmp_path / "nowhere"), trained, tmp_path / "out"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no OME-Zarr, PNG, JPEG, .* image, but .txt 1"):
        predict.work(settings(str(tmp_path / "texts"), trained, tmp_path / "out"))
    with pytest.raises(BundleError, match="is not a model bundle"):
        Backfill(settings(collection, str(tmp_path), tmp_path / "out"))
    given = settings(f"{collection}/images", trained, tmp_path / "out", workers=1000)
    with pytest.raises(SettingsError, match="setting workers: at most"):
        predict.work(given)
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_picture_shows_the_objects(output: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    given = OverlaySettings(dataset=str(output), picture=str(picture), images=9, side=100)
    assert overlay.work(given) == 0
    sheet = cv2.imread(str(picture))
    assert min(sheet.shape[:2]) > 200
    legend = sheet[-28:]
    found = sql(output, "select class_name, count(*) from $objects group by 1")
    assert found
    for name, n in found:
        colour = COLOURS[[spec.name for spec in reported(CLASSES)].index(name)]
        shown, named = ((part[..., ::-1] == colour).all(-1).sum() for part in (sheet, legend))
        assert shown - named > 3 * n  # an outline is longer than that


def test_counts_are_those_of_the_objects(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert count.work(CountSettings(dataset=str(output), json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = sql(output, "select class_name, count(*) from $objects group by 1 order by 1")
    assert [(r["class_name"], r["n_objects"]) for r in rows if r["n_objects"] is not None] == (
        expected
    )
    count.work(CountSettings(dataset=str(output), by="image", json=True))
    per_image = json.loads(capsys.readouterr().out)
    assert len(per_image) == 7 * 3
    assert sum(r["n_objects"] or 0 for r in per_image) == sum(n for _, n in expected)
    with pytest.raises(DatasetError, match="is not an output dataset"):
        OutputDataset.open(str(output / "images"))


PARTS = {"large": 1, "spread": 64, "size": 64}


@pytest.mark.slow
def test_chosen_channels_are_as_images_of_these(
    annotated: str, trained: str, tmp_path: Path
) -> None:
    """At once and in parts; and the tables tell the intensities of all."""
    for name in ("plain", "stacked"):
        (tmp_path / name).mkdir()
    for source in sorted(Path(annotated, "images").glob("*.png"))[:3]:
        image = cv2.imread(str(source), cv2.IMREAD_COLOR_RGB)
        more = np.dstack([image[..., 2], image[..., 0] // 2, image[..., 0], image[..., 1]])
        tifffile.imwrite(tmp_path / f"plain/{source.stem}.tif", image, photometric="rgb")
        planes = np.moveaxis(more, -1, 0)
        tifffile.imwrite(tmp_path / f"stacked/{source.stem}.tif", planes, metadata={"axes": "CYX"})
    found = {}
    chosen = {"channel": [2, 3, 0]}
    for name, images, given in (
        ("plain", "plain", {}),
        ("chosen", "stacked", chosen),
        ("parts", "stacked", chosen | {"regions": PARTS}),
    ):
        out = tmp_path / "out" / name
        assert predict.work(settings(str(tmp_path / images), trained, out, **given)) == 0
        found[name] = sql(out, "select rle, y0, x0, score from $objects order by rle, y0, x0")
        channels = sql(out, "select distinct len(intensity_mean) from $objects")
        assert channels == [(3 if name == "plain" else 4,)]
    assert found["plain"] == found["chosen"] == found["parts"] != []
    out = tmp_path / "out" / "none"
    few = settings(str(tmp_path / "stacked"), trained, out, channel=[4])
    assert predict.work(few) == 0
    codes = sql(out, "select distinct code, message from $rejects")
    assert codes == [("channels", "has 4 channels, and none of number 4")]


@pytest.mark.slow
def test_zoomed_back_enlarged_images_have_the_same_objects(
    annotated: str, trained: str, tmp_path: Path
) -> None:
    """In pixels of the enlarged image; and in parts as whole."""
    sources = sorted(Path(annotated, "images").glob("*.png"))[:6]
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    for source in sources:
        shutil.copy(source, tmp_path / "small" / source.name)
        image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
        enlarged = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(tmp_path / "large" / source.name), enlarged)
    model = shutil.copytree(trained, tmp_path / "model")
    said = json.loads((model / "bundle.json").read_text())
    (model / "bundle.json").write_text(json.dumps(said | {"zoom": 0.5}))
    totals = {}
    for name, images, which, more in (
        ("small", "small", trained, {}),
        ("plain", "large", trained, {}),
        ("zoomed", "large", trained, {"zoom": 0.5}),
        ("parts", "large", trained, {"zoom": 0.5, "regions": PARTS}),
        ("model", "large", model, {}),
        ("model in parts", "large", model, {"regions": PARTS}),
    ):
        out = tmp_path / "out" / name
        assert predict.work(settings(str(tmp_path / images), str(which), out, **more)) == 0
        query = "select count(*), sum(area), max(x1) from $objects"
        totals[name] = np.array(sql(out, query)[0], float)
    small, zoomed = totals["small"], totals["zoomed"]
    assert abs(zoomed / small - (1, 4, 2)).max() < 0.25
    assert abs(totals["plain"][0] - small[0]) > 2 * abs(zoomed[0] - small[0])
    assert abs(totals["parts"] / zoomed - 1).max() < 0.02
    assert (totals["model"] == zoomed).all(), "of a model that sees images at half of their size"
    assert (totals["model in parts"] == totals["parts"]).all()
