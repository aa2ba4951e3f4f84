"""Killed before each change of a file, whichever it is: nothing is lost, and nothing counts twice.

All is done in one process, where plain loops play Ray's part, so that every rename and removal can
be counted. A process that is dead changes nothing more: so does one here.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import compact, predict
from pipeline.config import CompactSettings
from pipeline.distributed import backfill, compacting, rewriting, rounds, session, verifying
from pipeline.distributed.blocks import Block, to_table
from pipeline.distributed.session import Resources
from pipeline.distributed.stages import CommitShard, PredictShard, ShardResult, read_shard
from pipeline.distributed.timing import StageSeconds
from pipeline.tables.check import check_shard
from pipeline.tables.dataset import OutputDataset
from tests.conftest import ROOT
from tests.laws import Scene, assert_same_rows, settings, write_image, write_sites

pytestmark = pytest.mark.slow

MODEL = str(ROOT / "models/nuclei")
CHANGES = ("replace", "unlink", "remove", "link", "rmdir")


class Killed(BaseException):
    """SIGKILL."""


class Death:
    """Comes before the change of a file below a folder that follows so many others."""

    def __init__(self, folder: Path, changes: int) -> None:
        self.folder, self.left = str(folder), changes
        self.last = ""
        self.came = False
        self.lock = threading.Lock()

    def before(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*given: Any, **named: Any) -> Any:
            where = str(given[0])
            if self.folder in where or "dir_fd" in named:
                with self.lock:
                    if not self.came and "/_lease/" not in where:
                        self.last = f"{change.__name__} {where}"
                        self.came, self.left = self.left == 0, self.left - 1
                    if self.came:
                        raise Killed
            return change(*given, **named)

        return checked


@contextlib.contextmanager
def death(folder: Path, changes: int) -> Iterator[Death]:
    """Whatever is done in the `with` dies then, if it gets so far."""
    coming = Death(folder, changes)
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, coming.before(getattr(os, name)))
        with contextlib.suppress(Killed):
            yield coming


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray would do, one after another."""
    loaded: dict[str, PredictShard] = {}

    @contextlib.contextmanager
    def here(*given: object) -> Iterator[Resources]:
        yield Resources(1, 1, 0, 1, 1 << 30)

    def stream(shards: Any, poison: Any, graph: Any, resources: object) -> Iterator[ShardResult]:
        network = loaded.setdefault(graph.model, PredictShard(graph, 1))
        commit = CommitShard(graph)
        for shard in shards:
            block = to_table(Block.planned(shard, poison))
            for row in commit(network(read_shard(block, graph.predict))).to_pylist():
                yield ShardResult(**row | {"seconds": StageSeconds(**row["seconds"])})

    def rewritten(snapshot: Any, works: Any, lease: Any) -> Iterator[int]:
        for work in works:
            task = rewriting._Task(work, snapshot.only(work.old))
            yield rewriting._rewrite({"item": task}, lease)["bytes"]

    def checked(snapshot: Any, shards: Any, told: object, *, overlapping: bool) -> Iterator[Any]:
        for shard in shards:
            yield from check_shard(snapshot.only([shard.id]), shard, overlapping=overlapping)

    monkeypatch.setattr(backfill, "ray_session", here)
    monkeypatch.setattr(session, "ray_session", here)
    monkeypatch.setattr(rounds, "stream_shards", stream)
    monkeypatch.setattr(rewriting, "rewrite_all", rewritten)
    monkeypatch.setattr(compacting, "rewrite_all", rewritten)
    monkeypatch.setattr(verifying, "check_shards", checked)


@pytest.mark.parametrize("command", ["the first", "of changed images", "compaction"])
@pytest.mark.parametrize("then", ["the same", "another"])
def test_killed_anywhere(command: str, then: str, tmp_path: Path) -> None:
    """Whatever comes then, the same command or another before it."""
    images, out = tmp_path / "images", tmp_path / "out"
    write_sites(images, a=3, b=3, bad=1)
    start = Scene(images, tmp_path / "start", MODEL)
    scene, fresh = Scene(images, out, MODEL), Scene(images, tmp_path / "fresh", MODEL)
    if command != "the first":
        start.predict()
    kept = set[str]()
    if command == "of changed images":
        kept = set(_counted(start.output))
        for seed, name in enumerate(("site-a/1.png", "site-b/0.png", "site-b/bad0.png", "new.png")):
            write_image(images / name, 500 + seed, 50, 70)
    fresh.predict()

    def predicted() -> int:
        return predict.work(settings(images, MODEL, out))

    def compacted() -> int:
        return compact.work(CompactSettings(dataset=str(out)))

    killed, other = (compacted, predicted) if command == "compaction" else (predicted, compacted)
    came, changes = True, 0
    while came:
        shutil.rmtree(out, ignore_errors=True)
        if command != "the first":
            shutil.copytree(start.output, out)
        with death(out, changes) as coming:
            killed()
        came, changes = coming.came, changes + 1
        shutil.rmtree(out / "_lease", ignore_errors=True)  # its time is over
        try:
            if (out / "dataset.json").exists():
                counted = _counted(out)
                assert len(counted) == len(set(counted))
                assert kept <= set(counted)
                if then == "another":
                    assert other() == 0
            assert killed() == 0
            assert predicted() == 0
            assert_same_rows(out, fresh.output)
            scene.assert_whole()
        except BaseException as error:
            error.add_note(f"killed before {coming.last}")
            raise
    assert changes > 20


def _counted(output: Path) -> list[str]:
    """URIs that a reader counts at this moment."""
    found = OutputDataset.open(str(output)).read("images", ["uri"])["uri"].to_pylist()
    return [str(uri) for uri in found]
