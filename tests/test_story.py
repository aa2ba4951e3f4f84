"""What a run tells of itself: its summary, its log, its estimate, and what it keeps to itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from jobs import predict
from jobs._main import run_job
from pipeline.config import PredictSettings
from pipeline.models.bundle import load_spec
from tests.conftest import ROOT
from tests.laws import die_at, settings, sql, words, write_image, write_sites

pytestmark = pytest.mark.usefixtures("ray_cluster")

SECRET = "marker-of-a-secret-key-0123456789"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    write_sites(folder, a=3, b=2, bad=1)
    (folder / "site-b/empty.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def ran(
    images: Path, trained: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A run as a collector of logs starts it, with a secret in its environment."""
    output = tmp_path_factory.mktemp("told-out") / "out"
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-m", *words(images, trained, output, "--log", "json")],
        cwd=ROOT,
        env=os.environ | {"AWS_SECRET_ACCESS_KEY": SECRET, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return output, done


def summary_of(output: Path) -> dict[str, object]:
    (run,) = (output / "_runs").iterdir()
    found: dict[str, object] = json.loads((run / "summary.json").read_text())
    return found


def test_the_log_is_an_object_a_line(
    ran: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    output, done = ran
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"time", "level", "event", "message"} <= set.intersection(*(set(one) for one in lines))
    told = {line["event"]: line for line in lines}
    assert (told["plan"]["images"], told["plan"]["shards"]) == (7, 4)
    assert (told["result"]["images"], told["result"]["rejects"]) == (5, 2)
    assert told["result"]["objects"] == sql(output, "select count(*) from $objects")[0][0]
    assert told["output"]["output"] == str(output)
    assert "Traceback" not in done.stderr


def test_the_summary_says_what_came_of_it(
    ran: tuple[Path, "subprocess.CompletedProcess[str]"], trained: str
) -> None:
    output, _ = ran
    summary = summary_of(output)
    counted = sql(output, "select count(*), sum(n_objects), sum(height * width) from $images")
    assert [(summary["images"], summary["objects"], summary["pixels"])] == counted
    codes = dict(sql(output, "select code, count(*) from $rejects group by 1"))
    assert summary["reject_codes"] == codes
    assert summary["rejects"] == sum(codes.values()) == 2
    assert summary["model"] == load_spec(trained).fingerprint
    assert summary["settings"]["images_per_shard"] == 2
    assert {"tessera", "ray", "torch", "pyarrow", "duckdb"} <= summary["versions"].keys()
    assert summary["peak_memory"] > 50 << 20
    assert 0 < summary["rates"]["images_per_second"] <= 7 / summary["seconds"] + 0.001
    (attempt,) = summary["attempts"]
    assert attempt["ended_by"] == "done"
    assert attempt["images"] + attempt["rejects"] == 7
    assert attempt["bytes_read"] > 0 < attempt["bytes_written"]


def test_no_secret_is_anywhere(ran: tuple[Path, "subprocess.CompletedProcess[str]"]) -> None:
    output, done = ran
    searched = [path for path in output.rglob("*") if path.is_file()]
    assert len(searched) > 20
    assert not [path for path in searched if SECRET.encode() in path.read_bytes()]
    assert SECRET not in done.stdout + done.stderr


def test_a_dry_run_estimates_from_the_last_run(
    ran: tuple[Path, "subprocess.CompletedProcess[str]"],
    images: Path,
    trained: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, _ = ran
    given = settings(images, trained, output, replace=True, dry_run=True, log="json")
    assert predict.work(given) == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[0])
    rate = summary_of(output)["rates"]["images_per_second"]
    assert plan["seconds"] == pytest.approx(7 / rate)
    assert "at the rate of the last run" in plan["message"]
    given = settings(images, trained, output.parent / "new", dry_run=True)
    assert predict.work(given) == 0
    assert "at the rate" not in capsys.readouterr().out


def test_every_attempt_says_how_it_ended(
    images: Path,
    trained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that failed, one that was killed when all was computed, and the one that ended it."""
    from pipeline.distributed import backfill
    from pipeline.errors import UnavailableError

    output = tmp_path / "out"
    with monkeypatch.context() as patch:

        def fail(*given: object) -> int:
            raise UnavailableError("the store went away")

        patch.setattr(backfill, "sweep_all", fail)
        assert run_job(PredictSettings, predict.work, words(images, trained, output)[1:]) == 1
    assert "error: the store went away" in capsys.readouterr().err
    die_at("pipeline.distributed.backfill:sweep_all:0", words(images, trained, output))
    assert predict.work(settings(images, trained, output)) == 0
    summary = summary_of(output)
    assert [one["ended_by"] for one in summary["attempts"]] == ["the store went away", "done"]
    assert (summary["images"], summary["rejects"]) == (5, 2)
    assert summary["rates"]["images_per_second"] > 0


def test_what_ended_a_run_is_told_where_it_can_not_be_kept(
    images: Path,
    trained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As when a scheduler stops a run whose store is away: the exit code is that of the signal."""
    from pipeline.distributed import backfill
    from pipeline.errors import StoppedError, UnavailableError
    from pipeline.tables.runs import Run

    def stop(*given: object) -> int:
        raise StoppedError("stopped by SIGTERM", signal.SIGTERM)

    def refuse(*given: object) -> None:
        raise UnavailableError("cannot write attempts")

    monkeypatch.setattr(backfill, "sweep_all", stop)
    monkeypatch.setattr(Run, "add_attempt", refuse)
    given = words(images, trained, tmp_path / "out")[1:]
    assert run_job(PredictSettings, predict.work, given) == 143
    captured = capsys.readouterr()
    assert "stopped by SIGTERM; the same command goes on" in captured.out
    assert captured.err == ""


def test_names_that_look_like_markup_are_told_as_they_are(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets mean something to the library that prints."""
    write_image(tmp_path / "in [/x] [red]/0.png", 1)
    output = tmp_path / "out [bold]"
    given = settings(tmp_path / "in [/x] [red]", trained, output, partition=(), dry_run=False)
    assert predict.work(given) == 0
    assert "out [bold]" in capsys.readouterr().out.replace("\n", "")
