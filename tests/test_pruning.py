"""Images that are gone from their collection lose their rows, and nothing else does."""

import shutil
from pathlib import Path

import pytest

from jobs import predict, verify
from jobs._main import run_job
from pipeline.config import PredictSettings, VerifySettings
from tests.laws import (
    BAD,
    GOOD,
    Scene,
    assert_same_rows,
    die_at,
    names,
    table_files,
    words,
    write_image,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def remove(scene: Scene, *gone: str) -> None:
    for name in gone:
        (scene.images / name).unlink()


def test_what_is_gone_or_moved_is_out(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image, a reject, all of a shard; one that was moved counts once."""
    gone = ["site-a/0.png", "site-a/1.png", "site-b/2.png", BAD[0]]
    remove(scene, *gone)
    (scene.images / "site-a/3.png").rename(scene.images / "site-a/moved.png")
    scene.predict()
    assert set(gone) < {*names(scene.output), *names(scene.output, "rejects")}  # unless asked for
    capsys.readouterr()
    scene.predict(prune=True, max_prune_share=0.6, dry_run=True)
    assert "5 images are gone: their rows would go" in capsys.readouterr().out
    scene.predict(prune=True, max_prune_share=0.6)
    assert "5 images are gone, and their rows with them" in capsys.readouterr().out
    left = {*GOOD, "site-a/moved.png"} - {*gone, "site-a/3.png"}
    assert names(scene.output) == sorted(left)
    assert names(scene.output, "rejects") == BAD[1:]
    scene.assert_whole()
    fresh = Scene(scene.images, tmp_path / "fresh", scene.model)
    fresh.predict()
    assert_same_rows(scene.output, fresh.output)
    before = table_files(scene.output)
    capsys.readouterr()
    scene.predict(prune=True)
    assert "nothing to do" in capsys.readouterr().out
    assert table_files(scene.output) == before


@pytest.mark.slow
def test_what_comes_back_is_done_again_and_may_get_lost_again(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(scene, "site-a/2.png")
    scene.predict(prune=True)
    assert "site-a/2.png" not in names(scene.output)
    write_image(scene.images / "site-a/2.png", 2)
    scene.predict(prune=True)
    assert names(scene.output) == GOOD
    scene.assert_whole()
    for file in scene.output.glob("*/site=a/*.parquet"):
        file.unlink()
    capsys.readouterr()
    assert verify.work(VerifySettings(dataset=str(scene.output))) == 4
    assert "4 missing" in capsys.readouterr().out


@pytest.mark.slow
def test_images_of_one_shard_come_and_go_and_each_counts_once(scene: Scene, tmp_path: Path) -> None:
    """A shard comes back with its images, and the next time another of them goes."""
    kept = shutil.copytree(scene.images, tmp_path / "before")
    a, b = GOOD[:2]  # planned together

    def restore(*names: str) -> None:
        for name in names:
            shutil.copy2(kept / name, scene.images / name)

    remove(scene, a)
    scene.predict(prune=True)
    remove(scene, b)
    scene.predict(prune=True)
    restore(a, b)
    scene.predict()
    remove(scene, b)
    scene.predict(prune=True)
    assert names(scene.output) == [a, *GOOD[2:]]
    scene.assert_whole()
    restore(b)
    scene.predict()
    assert names(scene.output) == GOOD
    scene.assert_whole()


def test_a_listing_that_lacks_much_is_not_believed(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(scene, *GOOD[:3])
    before = table_files(scene.output)
    given = words(scene.images, scene.model, scene.output, "--prune")[1:]
    assert run_job(PredictSettings, predict.work, given) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 images that are done, 30%" in line
    assert "--max-prune-share" in line
    assert table_files(scene.output) == before


@pytest.mark.slow
def test_a_writer_whose_clock_is_ahead_changes_nothing(scene: Scene) -> None:
    """What was pruned after its run is not missing, though the run is dated later."""
    (run,) = (scene.output / "_runs").iterdir()
    run.rename(run.with_name("20990101T000000000000Z-abcdef"))
    remove(scene, "site-a/0.png")
    scene.predict(prune=True)
    assert names(scene.output) == GOOD[1:]
    scene.assert_whole()


@pytest.mark.slow
def test_images_of_another_input_stay(scene: Scene, tmp_path: Path) -> None:
    write_image(tmp_path / "more/site-a/other.png", 5)
    other = Scene(tmp_path / "more", scene.output, scene.model)
    other.predict()
    remove(scene, "site-b/3.png")
    scene.predict(prune=True)
    assert names(scene.output) == sorted([*GOOD[:-1], "site-a/other.png"])
    scene.assert_whole()


def test_an_input_is_known_however_it_is_spelled(scene: Scene) -> None:
    (run,) = (scene.output / "_runs").glob("*/run.json")
    spelled = f"file://{scene.images}/"
    run.write_text(run.read_text().replace(f'"{scene.images}"', f'"{spelled}"'))  # as before
    remove(scene, "site-a/0.png")
    scene.predict(prune=True)
    assert names(scene.output) == GOOD[1:]
    remove(scene, "site-a/2.png")
    given = scene.settings(prune=True).model_copy(update={"input": spelled})
    assert predict.work(given) == 0
    assert names(scene.output) == [GOOD[1], *GOOD[3:]]
    scene.assert_whole()


def test_a_part_is_no_measure_of_the_whole(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(scene.images, scene.model, scene.output, "--prune", "--where", "site = 'a'")[1:]
    assert run_job(PredictSettings, predict.work, given) == 2
    assert "leave out where" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("point", ["write_tables:0", "sweep_all:0", "discard_shards:0"])
def test_killed_while_it_prunes(scene: Scene, point: str, tmp_path: Path) -> None:
    remove(scene, "site-a/0.png", BAD[1])
    die_at(
        f"pipeline.distributed.pruning:{point}",
        words(scene.images, scene.model, scene.output, "--prune"),
    )
    scene.predict(prune=True)
    assert names(scene.output) == GOOD[1:]
    assert names(scene.output, "rejects") == BAD[:1]
    scene.assert_whole()
    fresh = Scene(scene.images, tmp_path / "fresh", scene.model)
    fresh.predict()
    assert_same_rows(scene.output, fresh.output)
