"""A run that was asleep while another took over wakes up, and changes nothing any more."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import predict, verify
from jobs._main import run_job
from pipeline import storage
from pipeline.config import PredictSettings, VerifySettings
from pipeline.distributed import backfill, repairing
from pipeline.errors import LeaseLostError
from pipeline.records import ClassSpec
from pipeline.tables import orphans
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import hold_lease
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.shard import Provenance, commit_shard
from tests.laws import Scene, table_files

CLASSES = (ClassSpec(id=1, name="cell", kind="thing"),)
SHARD = "0123456789abcdef"


def take_over(dataset: Path) -> None:
    """What another machine leaves that took the lease, and has ended meanwhile."""
    mine = next((dataset / "_lease").glob("*.json")).read_text()
    theirs = mine.replace('"released": false', '"released": true')
    (dataset / "_lease/00000099.json").write_text(theirs)


def after(function: Callable[..., Any], event: Callable[[], object]) -> Callable[..., Any]:
    """The function, and what happens just when it has returned."""

    def both(*given: object, **named: object) -> object:
        result = function(*given, **named)
        event()
        return result

    return both


def before(function: Callable[..., Any], event: Callable[[], object]) -> Callable[..., Any]:
    """What happens just when a function is called, and the function."""

    def both(*given: object, **named: object) -> object:
        event()
        return function(*given, **named)

    return both


def commit(dataset: Path, before_commit: Callable[[], None]) -> None:
    commit_shard(str(dataset), [], [], CLASSES, Provenance(SHARD, "run", "model"), before_commit)


def test_a_commit_that_waits_for_its_store_is_not_made_when_the_lease_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away just when the last file of a shard is written, for as long as a lease."""
    rename = os.replace

    def stale(source: str, target: str) -> None:
        if f"images/{SHARD}" in target and not (tmp_path / "_lease/00000099.json").exists():
            take_over(tmp_path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        rename(source, target)

    with hold_lease(str(tmp_path), "jobs.predict") as lease:
        monkeypatch.setattr(os, "replace", stale)
        with pytest.raises(LeaseLostError):
            commit(tmp_path, lease.check)
    assert not (tmp_path / "images").exists() or not os.listdir(tmp_path / "images")
    assert (tmp_path / f"objects/{SHARD}.parquet").exists()


def test_what_is_committed_while_orphans_are_looked_for_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a run that was killed writes its last file when the next run clears up."""
    commit(tmp_path, lambda: None)
    image = tmp_path / f"images/{SHARD}.parquet"
    waiting = image.with_name(f".{image.name}.tessera-0123abcd")
    image.rename(waiting)

    def late() -> None:
        if waiting.exists():
            waiting.rename(image)

    monkeypatch.setattr(storage, "remove_many", before(storage.remove_many, late))
    orphans.remove_orphans(str(tmp_path), lambda: None)
    assert len(table_files(tmp_path)) == len(SCHEMAS)


def test_who_has_lost_the_lease_clears_nothing_up(tmp_path: Path) -> None:
    """What it takes for orphans is what the other one writes."""
    commit(tmp_path, lambda: None)
    (tmp_path / f"images/{SHARD}.parquet").unlink()
    left = table_files(tmp_path)
    with hold_lease(str(tmp_path), "jobs.predict") as lease:
        take_over(tmp_path)
        with pytest.raises(LeaseLostError):
            orphans.remove_orphans(str(tmp_path), lease.check)
    assert table_files(tmp_path) == left


def assert_taken_over(scene: Scene, capsys: pytest.CaptureFixture[str], *flags: str) -> None:
    """A prediction ends with a line, and leaves all as the one left it that took over."""
    files, spec = table_files(scene.output), (scene.output / "dataset.json").read_bytes()
    runs = {run.id: run.finished for run in OutputDataset.open(str(scene.output)).runs()}
    given = ["--input", str(scene.images), "--model", scene.model, "--output", str(scene.output)]
    given += ["--workers", "1", "--partition", r"site=/site-(\w)/", *flags]
    assert run_job(PredictSettings, predict.work, given) == 1
    assert "another run has taken over" in capsys.readouterr().err
    assert table_files(scene.output) == files
    assert (scene.output / "dataset.json").read_bytes() == spec
    now = {run.id: run.finished for run in OutputDataset.open(str(scene.output)).runs()}
    assert now == runs


@pytest.mark.parametrize("name", ["new_run", "remove_orphans"])
def test_an_old_plan_is_not_left_to_be_gone_on_with(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images were done meanwhile, in other shards: they would count twice."""
    scene.change("site-a/1.png")
    function = getattr(backfill, name)
    monkeypatch.setattr(backfill, name, before(function, lambda: take_over(scene.output)))
    assert_taken_over(scene, capsys)


def test_other_results_are_not_told_of_where_another_run_writes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = backfill.Backfill._begin
    event = before(begin, lambda: take_over(scene.output))
    monkeypatch.setattr(backfill.Backfill, "_begin", event)
    assert_taken_over(scene, capsys, "--replace", "--min-score", "0")


def test_a_run_that_another_goes_on_with_is_not_closed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = OutputDataset.open(str(scene.output)).runs()[0]
    storage.remove(f"{run.uri}/summary.json")
    function = backfill.remove_orphans
    monkeypatch.setattr(
        backfill, "remove_orphans", after(function, lambda: take_over(scene.output))
    )
    assert_taken_over(scene, capsys, "--replace", "--min-score", "0")


def test_a_shard_that_was_mended_meanwhile_is_not_discarded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = next((scene.output / "objects").rglob("*.parquet"))
    good = damaged.read_bytes()
    damaged.unlink()

    def mended() -> None:
        damaged.write_bytes(good)
        take_over(scene.output)

    function = repairing.remove_orphans
    monkeypatch.setattr(repairing, "remove_orphans", after(function, mended))
    assert run_job(VerifySettings, verify.work, [str(scene.output), "--repair"]) == 1
    assert "another run has taken over" in capsys.readouterr().err
    monkeypatch.undo()
    scene.assert_whole()
