"""Compaction: few large sorted files in the place of many small ones, and nothing else changes."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import compact, predict, verify
from jobs._main import run_job
from pipeline.config import CompactSettings, VerifySettings
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import hold_lease
from tests.laws import (
    assert_same_rows,
    die_at,
    names,
    settings,
    sql,
    table_files,
    write_image,
    write_sites,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_sites(folder, a=6, b=4)
    return folder


@pytest.fixture(scope="module")
def many(images: Path, trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard an image."""
    output = tmp_path_factory.mktemp("many-out") / "out"
    assert predict.work(settings(images, trained, output, images_per_shard=1)) == 0
    assert len(list(output.glob("images/*/*.parquet"))) == 12
    return output


@pytest.fixture
def output(many: Path, tmp_path: Path) -> Path:
    return shutil.copytree(many, tmp_path / "out")


def assert_compact(output: Path, many: Path) -> None:
    for table in ("images", "objects", "counts", "masks", "rejects"):
        assert len(list((output / table).glob("site=a/*.parquet"))) == 1
        assert len(list((output / table).glob("site=b/*.parquet"))) == 1
    assert_same_rows(output, many)
    assert verify.work(VerifySettings(dataset=str(output))) == 0
    assert not list((output / "_replaced").glob("*"))


def test_many_shards_become_few_sorted_ones(
    output: Path, many: Path, images: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table_files(output)
    assert compact.work(CompactSettings(dataset=str(output), dry_run=True)) == 0
    assert "12 shards would become 2" in capsys.readouterr().out
    assert table_files(output) == before
    assert compact.work(CompactSettings(dataset=str(output))) == 0
    assert "12 shards became 2" in capsys.readouterr().out
    assert_compact(output, many)
    for table in ("images", "counts", "rejects"):
        for file in (output / table).rglob("*.parquet"):
            found = pq.ParquetFile(file).read()["uri"].to_pylist()
            assert found == sorted(found)
    order = [p["image_id"] for p in pq.ParquetFile(next((output / "images/site=a").iterdir()))
             .read(["image_id"]).to_pylist()]  # fmt: skip
    for table in ("objects", "masks"):
        file = pq.ParquetFile(next((output / table / "site=a").iterdir()))
        places = [order.index(i) for i in file.read(["image_id"])["image_id"].to_pylist()]
        assert places == sorted(places)
        assert set(places) == set(range(6))
    capsys.readouterr()
    after = table_files(output)
    assert compact.work(CompactSettings(dataset=str(output))) == 0
    assert predict.work(settings(images, trained, output)) == 0
    assert capsys.readouterr().out.count("nothing to do") == 2
    assert table_files(output) == after


def test_a_size_that_is_reached_is_enough(output: Path, many: Path) -> None:
    sizes = sum(p.stat().st_size for p in many.glob("*/site=a/*.parquet"))
    assert compact.work(CompactSettings(dataset=str(output), target_bytes=sizes // 2)) == 0
    assert 2 <= len(list((output / "images/site=a").iterdir())) <= 4
    assert_same_rows(output, many)
    ranges = []
    for file in (output / "images/site=a").iterdir():
        found = pq.ParquetFile(file).read(["uri"])["uri"].to_pylist()
        ranges.append((min(found), max(found)))
    ranges.sort()
    assert all(last < first for (_, last), (first, _) in pairwise(ranges))


@pytest.mark.slow
def test_a_changed_image_after_compaction(
    output: Path, images: Path, trained: str, tmp_path: Path
) -> None:
    assert compact.work(CompactSettings(dataset=str(output))) == 0
    kept = shutil.copy2(images / "site-a/2.png", tmp_path / "kept.png")
    try:
        write_image(images / "site-a/2.png", 700, 40, 44)
        assert predict.work(settings(images, trained, output)) == 0
        assert predict.work(settings(images, trained, tmp_path / "fresh")) == 0
    finally:
        shutil.copy2(kept, images / "site-a/2.png")
    assert_same_rows(output, tmp_path / "fresh")
    assert verify.work(VerifySettings(dataset=str(output))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "pipeline.distributed.compacting:rewrite_all:0",
        "pipeline.distributed.rewriting:data_context:0",
        "pipeline.distributed.compacting:sweep_all:1",
        "pipeline.storage.files:remove:3",
        "pipeline.storage.files:remove:20",
        "pipeline.storage.files:remove:73",
        "pipeline.tables.runs:Run.finish:0",
    ],
)
def test_killed_and_run_again(
    point: str, output: Path, many: Path, images: Path, trained: str
) -> None:
    dataset = OutputDataset.open(str(output))
    expected = sorted(dataset.read("images", ["uri"])["uri"].to_pylist())
    die_at(point, ["jobs.compact", str(output)])
    assert sorted(dataset.read("images", ["uri"])["uri"].to_pylist()) == expected
    assert compact.work(CompactSettings(dataset=str(output))) == 0
    assert_compact(output, many)


def test_a_prediction_finishes_what_a_killed_compaction_began(
    output: Path, many: Path, images: Path, trained: str
) -> None:
    """Although it has nothing else to do: the files of shards that are half removed go too."""
    die_at("pipeline.storage.files:remove:3", ["jobs.compact", str(output)])
    assert sql(output, "select count(*) from $images")[0] > (10,)
    assert predict.work(settings(images, trained, output)) == 0
    assert_compact(output, many)


def test_a_live_lease_refuses(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table_files(output)
    with hold_lease(str(output), "jobs.predict", ttl=3, renew=0.2):
        assert run_job(CompactSettings, compact.work, [str(output)]) == 1
    assert "is being written by another run: jobs.predict" in capsys.readouterr().err
    assert table_files(output) == before


def test_whoever_has_lost_the_lease_removes_nothing(
    output: Path, many: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another has taken over while this one was asleep."""
    from pipeline.distributed import compacting

    write, before = compacting.rewrite_all, table_files(output)

    def taken_over(*given: object) -> Iterator[int]:
        mine = json.loads(next((output / "_lease").glob("*.json")).read_text())
        theirs = json.dumps(mine | {"released": True})  # and has ended meanwhile
        (output / "_lease/00000099.json").write_text(theirs)
        yield from write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(compacting, "rewrite_all", taken_over)
    assert run_job(CompactSettings, compact.work, [str(output)]) == 1
    assert "another run has taken over" in capsys.readouterr().err
    assert before.items() <= table_files(output).items()
    assert names(output) == names(many)
    monkeypatch.undo()
    assert run_job(CompactSettings, compact.work, [str(output)]) == 0
    assert_compact(output, many)
