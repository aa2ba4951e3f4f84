"""Rows that take the place of others: each image counts once, at every moment and in the end."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs import compact, predict
from jobs._main import run_job
from pipeline.config import CompactSettings, PredictSettings
from pipeline.counting import count
from pipeline.distributed.backfill import Backfill
from pipeline.errors import ChangedError
from pipeline.tables import snapshot as snapshots
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.rewrite import Rewrite, rewrite
from pipeline.tables.shard import discard_shards
from tests.laws import (
    BAD,
    GOOD,
    Scene,
    assert_same_rows,
    die_at,
    names,
    sql,
    table_files,
    uris,
    words,
    write_image,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.slow
def test_a_changed_image_has_new_rows_and_no_old_ones(scene: Scene, tmp_path: Path) -> None:
    before = table_files(scene.output)
    dataset = OutputDataset.open(str(scene.output))
    shard_of = dict(
        zip(*dataset.read("images", ["uri", "shard"]).to_pydict().values(), strict=True)
    )
    touched = shard_of[f"{scene.images}/site-a/1.png"]
    scene.change("site-a/1.png")
    scene.predict()
    assert names(scene.output) == GOOD
    assert names(scene.output, "rejects") == BAD
    (size,) = sql(scene.output, "select height, width from $images where uri like '%a/1.png'")
    assert size == (50, 70)
    scene.assert_whole()
    after = table_files(scene.output)
    stayed = {file: when for file, when in before.items() if touched not in file}
    assert len(before) - len(stayed) == 5
    assert stayed.items() <= after.items()
    assert not [file for file in after if touched in file]
    fresh = Scene(scene.images, tmp_path / "fresh", scene.model)
    fresh.predict()
    assert_same_rows(scene.output, fresh.output)


@pytest.mark.slow
def test_rejects_are_told_where_rows_were_replaced_too(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.change("site-a/1.png")
    (scene.images / "site-a/torn.png").write_bytes(b"no image")
    scene.predict(max_reject_share=0.5)
    told = capsys.readouterr().out.split("such as\n")[1]
    assert "site-a/torn.png: unknown_format: " in told.splitlines()[0]


@pytest.mark.slow
def test_rejects_are_tried_again_when_asked(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a bad copy: the version is the same, the content is not."""
    mended = scene.images / BAD[0]
    write_image(scene.images / "donor.png", 77)
    data = (scene.images / "donor.png").read_bytes()
    (scene.images / "donor.png").unlink()
    mended.write_bytes(bytes(len(data)))
    scene.predict()
    then = mended.stat().st_mtime_ns
    mended.write_bytes(data)
    os.utime(mended, ns=(then, then))
    capsys.readouterr()
    scene.predict()
    assert "nothing to do" in capsys.readouterr().out
    scene.predict(retry_rejects=True)
    assert "2 to do" in capsys.readouterr().out
    assert names(scene.output) == sorted([*GOOD, BAD[0]])
    assert names(scene.output, "rejects") == BAD[1:]
    scene.assert_whole()


@pytest.mark.slow
def test_an_interrupted_run_is_finished_before_rejects_are_tried_again(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = (scene.output / "_runs").iterdir()
    (run / "summary.json").unlink()
    lost = min((scene.output / "images").rglob("*.parquet"))
    for table in ("images", "objects"):
        (scene.output / table / lost.relative_to(scene.output / "images")).unlink()
    capsys.readouterr()
    scene.predict(retry_rejects=True)
    told = capsys.readouterr().out
    assert f"going on with the interrupted run {run.name}: 2 images left" in told
    assert "10 images, 8 done before, 2 to do" in told
    assert names(scene.output) == GOOD
    assert names(scene.output, "rejects") == BAD
    scene.assert_whole()


@pytest.mark.slow
def test_another_command_comes_between_an_interruption_and_its_end(
    scene: Scene, tmp_path: Path
) -> None:
    """It has nothing to do itself, and sweeps: the interrupted plan names shards that then go."""
    for name in GOOD:
        scene.change(name)
    command = words(scene.images, scene.model, scene.output)
    die_at("pipeline.distributed.story:Attempt.add:0", command)
    scene.predict(where="uri = 'none'")
    scene.assert_whole()
    scene.predict()
    fresh = Scene(scene.images, tmp_path / "fresh", scene.model)
    fresh.predict()
    assert_same_rows(scene.output, fresh.output)
    scene.assert_whole()


ONE = "uri like '%/site-a/0.png'"


class Killed(BaseException):
    """Stands for the end of a process."""


def interrupt(scene: Scene, **more: object) -> Path:
    """A command whose process ends when its plan is kept; returns the run's folder."""
    before = set((scene.output / "_runs").iterdir())

    def die(*args: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backfill, "_compute", die)
        with pytest.raises(Killed):
            scene.predict(**more)
    (run,) = set((scene.output / "_runs").iterdir()) - before
    assert not (run / "summary.json").exists()
    return run


@pytest.mark.slow
def test_pruning_comes_between_an_interruption_and_its_end(scene: Scene) -> None:
    """The interrupted plan names a row of the shard that another image is taken out of."""
    interrupt(scene, replace=True, where=ONE)
    (scene.images / "site-a/1.png").unlink()
    scene.predict(prune=True)
    scene.predict(replace=True, where=ONE)
    assert names(scene.output) == [name for name in GOOD if name != "site-a/1.png"]
    scene.assert_whole()


def test_what_another_command_left_goes_where_nothing_is_to_do(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """A glob counts what was written of a shard that nobody will commit."""
    run = interrupt(scene, replace=True, where=ONE)
    shard = pq.ParquetFile(run / "plan/00000.parquet").read()["shard"][0]
    half = scene.output / f"objects/site=a/{shard}.parquet"
    shutil.copy(min(half.parent.glob("*.parquet")), half)
    before = table_files(scene.output)
    capsys.readouterr()
    scene.predict(dry_run=True)
    assert "1 interrupted run of other commands would be closed" in capsys.readouterr().out
    assert table_files(scene.output) == before
    assert not (run / "summary.json").exists()
    scene.predict()
    told = capsys.readouterr().out
    assert "1 interrupted run of other commands closed" in told
    assert "nothing to do" in told
    scene.assert_whole()
    capsys.readouterr()
    scene.predict()
    assert "interrupted" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_run_is_enough_for_who_asks_for_no_more_than_it(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sql(scene.output, "select distinct run from $images")
    interrupt(scene, retry_rejects=True)
    capsys.readouterr()
    scene.predict(replace=True)
    told = capsys.readouterr().out
    assert "going on with the interrupted run" in told
    assert "10 images, 0 done before, 10 to do" in told
    assert not set(before) & set(sql(scene.output, "select run from $images"))
    run = interrupt(scene, replace=True, where=ONE)
    text = (run / "run.json").read_text()
    assert '"renews": "all"' in text
    (run / "run.json").write_text(text.replace('"all"', "true"))  # as it was said before
    scene.predict(retry_rejects=True, where=ONE)
    told = capsys.readouterr().out
    assert "going on with the interrupted run" in told
    assert "done before" not in told.partition("going on")[2]
    scene.assert_whole()


def test_other_results_are_refused_with_what_differs(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(scene.images, scene.model, scene.output, "--min-area", "33")[1:]
    assert run_job(PredictSettings, predict.work, given) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert (
        "holds the results of min-area as by default, not 33: give another --output, or --replace"
        in line
    )
    text = (scene.output / "dataset.json").read_text()
    model = OutputDataset.open(str(scene.output)).spec.model
    (scene.output / "dataset.json").write_text(text.replace(model, "another"))
    before = table_files(scene.output)
    given = words(scene.images, scene.model, scene.output)[1:]
    assert run_job(PredictSettings, predict.work, given) == 1
    assert f"holds the results of model another, not {model}: give" in capsys.readouterr().err
    assert table_files(scene.output) == before


@pytest.mark.slow
def test_one_partition_is_replaced_with_other_settings(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table_files(scene.output)
    old_run = sql(scene.output, "select distinct run from $images")
    scene.predict(replace=True, where="site = 'a'", min_area=40)
    assert names(scene.output) == GOOD
    runs = dict(sql(scene.output, "select uri like '%site-b%', min(run) from $images group by 1"))
    assert [(runs[True],)] == old_run
    assert runs[False] != runs[True]
    assert sql(scene.output, "select count(*) from $objects where area < 40 and shard in "
               "(select shard from $images where uri like '%site-a%')") == [(0,)]  # fmt: skip
    after = table_files(scene.output)
    assert {f for f in before if "site=b" in f} == {f for f in after if "site=b" in f}
    assert {f: t for f, t in before.items() if "site=b" in f}.items() <= after.items()
    # The old files are gone, and have left no empty ones in their place.
    assert len(after) == len(before)
    assert not {f for f in before if "site=a" in f} & after.keys()
    scene.assert_whole()
    capsys.readouterr()
    scene.predict(min_area=40)
    assert "nothing to do" in capsys.readouterr().out
    given = words(scene.images, scene.model, scene.output)[1:]
    assert run_job(PredictSettings, predict.work, given) == 1
    assert "min-area 40, not as by default" in capsys.readouterr().err


@pytest.mark.slow
def test_readers_see_every_image_once_at_every_moment(scene: Scene) -> None:
    """While all is computed anew, and while many files become few."""
    dataset = OutputDataset.open(str(scene.output))
    expected = sorted(f"{scene.images}/{name}" for name in GOOD)
    wrong: list[object] = []
    seen: list[int] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                found = sorted(dataset.read("images", ["uri"])["uri"].to_pylist())
                if found != expected:
                    wrong.append(found)
                counted = [row["uri"] for row in count(dataset, "image")]
                if sorted(counted) != sorted(expected * 3):
                    wrong.append(counted)
                seen.append(len(dataset.snapshot().shards))
            except BaseException as error:
                wrong.append(error)
                raise

    reader = threading.Thread(target=read)
    reader.start()
    try:
        scene.predict(replace=True, images_per_shard=1)
        assert compact.work(CompactSettings(dataset=str(scene.output))) == 0
    finally:
        ended.set()
        reader.join()
    assert wrong == []
    assert len(seen) > 10
    assert len(set(seen)) > 1  # it did see it change
    scene.assert_whole()


def test_a_listing_that_misses_a_switch_is_not_believed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long listing passes where the new shard will be, and then where the old one was."""
    dataset = OutputDataset.open(str(scene.output))
    now = dataset.snapshot()
    old = min(now.shards)
    work = Rewrite((old,), now.shards[old])
    expected = sorted(dataset.read("images", ["uri"])["uri"].to_pylist())
    rewrite(now, work, lambda: None)
    discard_shards(dataset.uri, {old: now.shards[old]})
    listed: list[str] = []
    list_shards = snapshots.shards_in

    def list_slowly(uri: str, table: str) -> dict[str, str]:
        listed.append(table)
        found = dict(list_shards(uri, table))
        if len(listed) == 1:
            del found[work.shard]
        return found

    monkeypatch.setattr(snapshots, "shards_in", list_slowly)
    assert sorted(dataset.read("images", ["uri"])["uri"].to_pylist()) == expected


def test_of_several_plans_of_a_shard_the_newest_tells(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = (scene.output / "_runs").iterdir()
    older = shutil.copytree(run, run.with_name("20000101T000000Z-000000"))
    plan = older / "plan/00000.parquet"
    pq.write_table(pq.ParquetFile(plan).read().slice(1), plan)
    capsys.readouterr()
    scene.predict()
    assert "nothing to do" in capsys.readouterr().out
    scene.assert_whole()


def test_a_reader_that_can_not_keep_up_is_told(scene: Scene) -> None:
    dataset = OutputDataset.open(str(scene.output))
    now = dataset.snapshot()
    shard, partition = next(iter(now.shards.items()))
    discard_shards(dataset.uri, {shard: partition})
    with pytest.raises(ChangedError, match="was changed while it was read"):
        list(now.scan("images", ["uri"]))


@pytest.fixture(scope="module")
def committed(first: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A run over changed images that died when every new row was committed, and no old one gone."""
    folder = tmp_path_factory.mktemp("committed")
    shutil.copytree(first.images, folder / "kept")
    shutil.copytree(first.output, folder / "out")
    scene = Scene(first.images, folder / "out", first.model)
    for name in ("site-a/1.png", "site-b/0.png", BAD[1]):
        scene.change(name)
    die_at(
        "pipeline.distributed.backfill:sweep_all:0", words(scene.images, scene.model, scene.output)
    )
    yield scene
    shutil.rmtree(first.images)
    shutil.copytree(folder / "kept", first.images)


@pytest.fixture(scope="module")
def undisturbed(committed: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fresh = Scene(committed.images, tmp_path_factory.mktemp("fresh") / "out", committed.model)
    fresh.predict()
    return fresh.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        "pipeline.tables.runs:Run.add_attempt:0",
        "pipeline.distributed.rewriting:new_run:0",
        "pipeline.distributed.rewriting:rewrite_all:0",
        "pipeline.distributed.rewriting:sweep:0",
        "pipeline.storage.files:remove:2",
        "pipeline.storage.files:remove:8",
        "pipeline.storage.files:remove:16",
        "pipeline.tables.runs:Run.finish:0",
        "pipeline.tables.runs:Run.finish:1",
    ],
)
def test_killed_between_commit_and_sweep(
    point: str, committed: Scene, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(committed.output, tmp_path / "out")
    scene = Scene(committed.images, tmp_path / "out", committed.model)
    dataset = OutputDataset.open(str(scene.output))
    expected = uris(undisturbed)
    assert sorted(dataset.read("images", ["uri"])["uri"].to_pylist()) == expected
    die_at(point, words(scene.images, scene.model, scene.output))
    assert sorted(dataset.read("images", ["uri"])["uri"].to_pylist()) == expected
    scene.predict()
    assert_same_rows(scene.output, undisturbed)
    scene.assert_whole()
