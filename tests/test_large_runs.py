"""Images of any size as a user predicts them: by window, in parts, killed and gone on with."""

import random
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

from jobs import predict
from jobs import verify as verify_job
from pipeline.config import PredictSettings, VerifySettings
from pipeline.distributed.opening import blamed, failure_of
from pipeline.distributed.part_stages import open_image, read_part
from pipeline.distributed.parts import Part, keep_of, part_of, to_table
from pipeline.distributed.session import ray_session
from pipeline.distributed.stages import GraphSettings
from pipeline.errors import UnavailableError
from pipeline.large.keeping import Opened
from pipeline.models.weights import load_bundle
from pipeline.records import SourceImage
from pipeline.synthetic import encode_image, make_scene
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import Hold
from tests.chaos import Job, assert_same, hooked, tables
from tests.conftest import ROOT
from tests.laws import sql
from tests.test_windows import write_pyramid, write_zarr

IN_PARTS = {"size": 64, "spread": 128, "large": 1}
PARTS = ["--regions.size", "64", "--regions.spread", "128", "--regions.large", "1"]


def settings(images: Path | str, model: str, output: Path | str, **more: object) -> PredictSettings:
    values = {"max_reject_share": 1.0, "precision": "float32"} | more
    return PredictSettings(input=str(images), model=model, output=str(output), **values)


def verify(output: Path) -> int:
    return verify_job.work(VerifySettings(dataset=str(output)))


def write_large(folder: Path) -> None:
    """Images of every format that is read by window, and one that is not."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = make_scene(300, 411, 120, 1).image
    tifffile.imwrite(folder / "tiles.tif", scene, tile=(64, 64), compression="zlib")
    gray = (make_scene(260, 200, 60, 2).image[..., 0].astype(np.uint16)) << 7
    tifffile.imwrite(folder / "strips.tif", gray, rowsperstrip=16)
    (folder / "whole.png").write_bytes(encode_image(make_scene(190, 333, 70, 3).image, "png"))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    write_large(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_in_parts_is_as_at_once(large: Path, trained: str, tmp_path: Path) -> None:
    predict.work(settings(large, trained, tmp_path / "whole"))
    predict.work(settings(large, trained, tmp_path / "parts", regions=IN_PARTS))
    expected, found = tables(tmp_path / "whole"), tables(tmp_path / "parts")
    assert expected["objects"].num_rows > 80
    assert found["counts"].drop(["shard"]).equals(expected["counts"].drop(["shard"]))
    measured = ["image_id", "class_id", "score", "y0", "x0", "y1", "x1", "centroid_y", "area",
                "major_axis", "eccentricity", "intensity_mean", "truncated", "rle"]  # fmt: skip
    order = [(name, "ascending") for name in ("image_id", "y0", "x0", "y1", "x1", "area")]
    assert (
        found["objects"]
        .select(measured)
        .sort_by(order)
        .equals(expected["objects"].select(measured).sort_by(order))
    )
    assert verify(tmp_path / "parts") == 0
    assert not list((tmp_path / "parts").glob("_runs/*/parts/*"))  # nothing is left of the work


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_bad_large_image_is_one_reject(large: Path, trained: str, tmp_path: Path) -> None:
    data = (large / "tiles.tif").read_bytes()
    (large / "short.tif").write_bytes(data[: len(data) // 2])
    damaged = bytearray(data)
    with tifffile.TiffFile(large / "tiles.tif") as file:
        start = file.pages[0].dataoffsets[7]
    damaged[start : start + 40] = bytes(40)
    (large / "damaged.tif").write_bytes(damaged)
    shutil.copy(large / "tiles.tif", large / "absurd.tif")
    with tifffile.TiffFile(large / "absurd.tif", mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(2**31 - 1, dtype="I")
    write_zarr(large / "holes.zarr", 2)
    (large / "holes.zarr/0/1.1").unlink()
    write_zarr(large / "damaged.zarr", 2)
    (large / "damaged.zarr/0/1.1").write_bytes(b"\x02\x01\x33\x02 not a chunk")
    (large / "empty.zarr").mkdir()
    (large / "empty.zarr/data").write_bytes(b"")
    output = tmp_path / "out"
    predict.work(settings(large, trained, output, regions=IN_PARTS))
    found = dict(sql(output, "select parse_filename(uri), code from $rejects"))
    assert found == {
        "short.tif": "corrupt",
        "damaged.tif": "corrupt",
        "absurd.tif": "corrupt",
        "damaged.zarr": "corrupt",
        "empty.zarr": "not_found",
    }
    done = {name for (name,) in sql(output, "select parse_filename(uri) from $images")}
    assert done == {"tiles.tif", "strips.tif", "whole.png", "holes.zarr"}
    assert verify(output) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_level_is_chosen_and_what_has_none_is_told(trained: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_pyramid(images / "pyramid.tif")
    (images / "flat.png").write_bytes(encode_image(make_scene(50, 60, 4, 3).image, "png"))
    output = tmp_path / "out"
    predict.work(settings(images, trained, output, mpp=0.5))
    assert sql(output, "select height, width from $images") == [(150, 205)]
    assert sql(output, "select code from $rejects") == [("level",)]


@pytest.mark.slow
def test_large_images_in_an_object_store(bucket: str, trained: str, tmp_path: Path) -> None:
    write_large(tmp_path / "images")
    write_zarr(tmp_path / "images/image.zarr", 3)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    fs.put(str(tmp_path / "images"), f"{bucket}/large", recursive=True)
    with ray_session(store_bytes=512 << 20):
        here, there = tmp_path / "out", f"{bucket}/large-out"
        predict.work(settings(tmp_path / "images", trained, here, regions=IN_PARTS))
        predict.work(settings(f"{bucket}/large", trained, there, regions=IN_PARTS))
    columns = ["y0", "x0", "y1", "x1", "area", "rle"]
    order = [(name, "ascending") for name in columns]
    expected = OutputDataset.open(str(here)).read("objects", columns).sort_by(order)
    assert OutputDataset.open(there).read("objects", columns).sort_by(order).equals(expected)
    assert OutputDataset.open(there).read("images", ["uri"]).num_rows == 4


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """One image of 36 parts."""
    scene = make_scene(768, 768, 340, 5).image
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images/huge.tif", scene, tile=(128, 128), compression="zlib")
    return tmp_path / "images"


def words(images: Path, model: str, output: Path) -> list[str]:
    given = ["--input", str(images), "--model", model, "--output", str(output)]
    return ["jobs.predict", *given, *PARTS, "--precision", "float32"]


def kept(output: Path, step: str) -> dict[str, int]:
    """Files of a step with the time when they were written."""
    found = output.glob(f"_runs/*/parts/*/*/{step}/*.arrow")
    return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_parts_that_lack(
    huge: Path, trained: str, tmp_path: Path
) -> None:
    job = Job.start(words(huge, trained, tmp_path / "expected"), tmp_path / "expected.log")
    assert job.wait() == 0, job.text()
    output = tmp_path / "out"
    before: dict[str, dict[str, int]] = {"scales": {}, "seams": {}}
    for step in before:
        job = Job.start(words(huge, trained, output), tmp_path / f"{step}.log")
        job.wait_until(lambda step=step: len(kept(output, step)) >= 12)
        job.kill()
        for other, known in before.items():
            now = kept(output, other)
            # What was there before this attempt was not done again by it.
            assert {path: now[path] for path in known} == known
            before[other] = now
    assert len(before["scales"]) == 36
    assert 12 <= len(before["seams"]) < 36
    job = Job.start(words(huge, trained, output), tmp_path / "last.log")
    job.wait_until(lambda: len(kept(output, "seams")) == 36 or "images/" in job.text())
    now = kept(output, "seams")
    assert not now or {path: now[path] for path in before["seams"]} == before["seams"]
    assert job.wait() == 0, job.text()
    assert_same(output, tmp_path / "expected")
    assert verify(output) == 0


def test_an_image_replaced_while_its_run_was_killed_is_not_mixed_of_both(tmp_path: Path) -> None:
    """The new file is as large in pixels, and other parts of the old one are done already."""
    path = tmp_path / "image.tif"
    bundle = load_bundle(str(ROOT / "models/nuclei")).spec
    graph = GraphSettings(
        str(tmp_path / "out"), "run", Hold("", 0, ""), "", "", bundle.classes, bundle.method,
        settings(tmp_path, "none", tmp_path / "out", regions=IN_PARTS), bundle,
    )  # fmt: skip

    def read(source: SourceImage) -> tuple[str | None, bool]:
        """As a run does that begins or goes on; what it says of the image's second part."""
        keep = keep_of("shard", source, graph)
        opened, _ = open_image(source, keep, graph)
        assert isinstance(opened, Opened)
        table = read_part(to_table(Part("shard", source, 1, opened)), graph, {})
        reject = part_of(table).reject
        return reject and reject.code, table["pixels"].null_count == 0

    tifffile.imwrite(path, make_scene(300, 300, 90, 1).image, tile=(64, 64), compression="zlib")
    source = SourceImage("image", str(path), "1", path.stat().st_size)
    assert read(source) == (None, True)
    tifffile.imwrite(path, make_scene(300, 300, 90, 2).image, tile=(64, 64), compression="zlib")
    assert read(source) == ("changed", False)


@pytest.mark.soak
def test_processes_that_work_on_parts_may_die(huge: Path, trained: str, tmp_path: Path) -> None:
    job = Job.start(words(huge, trained, tmp_path / "expected"), tmp_path / "expected.log")
    assert job.wait() == 0, job.text()
    output, chance = tmp_path / "out", random.Random(0)
    job = Job.start(words(huge, trained, output), tmp_path / "job.log")
    for name, step, n in (
        ("PredictPart", "scales", 8),
        ("KeepPart", "scales", 16),
        ("LabelPart", "seams", 8),
        ("LabelPart", "seams", 16),
    ):
        job.wait_until(lambda step=step, n=n: len(kept(output, step)) >= n)
        assert job.kill_one(name, chance), name
    assert job.wait() == 0, job.text()
    assert_same(output, tmp_path / "expected")


def test_only_a_process_that_dies_is_a_crash() -> None:
    def reject(error: RayError) -> tuple[str, str]:
        found = blamed(failure_of(error))
        return found.code, found.message

    broken = RayTaskError("open", "Traceback", ValueError("odd axes"))
    for error in (broken, broken.make_dual_exception_instance()):
        assert reject(error) == ("defect", "ValueError: odd axes; please report this")
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 55)
    for lack in (MemoryError(), caught.value):
        assert reject(RayTaskError("open", "Traceback", lack))[0] == "memory"
    assert reject(RayTaskError("open", "Traceback", UnavailableError("503")))[0] == "unreadable"
    assert reject(WorkerCrashedError())[0] == "crash"


CRASHING_WINDOW = """
import os, signal
import pipeline.images.windows.tiff as tiff

read = tiff.TiffWindows.read

def dying(self, box):
    if "crash" in self.uri and box.y1 > 250 and box.x1 - box.x0 < 400:
        os.kill(os.getpid(), signal.SIGSEGV)
    return read(self, box)

tiff.TiffWindows.read = dying
"""
"""Where the windows of parts at the bottom are read, not where the whole is looked at."""


@pytest.mark.slow
def test_an_image_of_which_a_part_ends_its_process_is_a_reject(
    large: Path, trained: str, tmp_path: Path
) -> None:
    shutil.copy(large / "tiles.tif", large / "crash.tif")
    output = tmp_path / "out"
    environment = hooked(tmp_path / "hook", CRASHING_WINDOW)
    given = [*words(large, trained, output), "--max-reject-share", "1"]
    job = Job.start(given, tmp_path / "log", **environment)
    assert job.wait(400) == 0, job.text()
    assert sql(output, "select parse_filename(uri), stage, code from $rejects") == [
        ("crash.tif", "process", "crash")
    ]
    assert sql(output, "select count(*) from $images") == [(3,)]
    assert verify(output) == 0
