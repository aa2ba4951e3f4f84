"""Laws 1 and 2: a run that is killed and resumed ends with the tables of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tables.dataset import OutputDataset
from pipeline.tables.schema import SCHEMAS
from tests.conftest import ROOT, run_cli

NOT_COMPARED = {"run", "predicted_at"}


def command(images: str, model: str, output: Path) -> list[str]:
    words = ["jobs.predict", "--input", images, "--model", model, "--output", str(output)]
    return [*words, "--images-per-shard", "2", "--workers", "1", "--max-reject-share", "1"]


def tables(output: Path) -> dict[str, pa.Table]:
    """Every file of every table, as a plain glob sees them."""
    found = {}
    for name, schema in SCHEMAS.items():
        columns = [c for c in schema.names if c not in NOT_COMPARED]
        files = sorted((output / name).glob("**/*.parquet"))
        rows = pa.concat_tables([pq.read_table(f, columns=columns) for f in files])
        keys = [c for c in ("uri", "image_id", "object_id", "class_id", "y0") if c in columns]
        found[name] = rows.sort_by([(key, "ascending") for key in keys])
    return found


def kill_after(words: list[str], output: Path, commits: int) -> int:
    """Start a run, SIGKILL its driver after some commits; returns how many there were then."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    driver = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while len(list(output.glob("images/*.parquet"))) < commits:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return len(list(output.glob("images/*.parquet")))


@pytest.fixture
def many(trained: str, tmp_path: Path) -> str:
    """Enough shards that a kill comes in between them; two files are bad."""
    from pipeline.synthetic import write_annotated

    write_annotated(str(tmp_path / "many"), [(160, 160)] * 40, ["test"] * 40, seed=300)
    for i in range(2):
        (tmp_path / f"many/images/bad{i}.png").write_bytes(b"nothing like a PNG")
    return str(tmp_path / "many/images")


@pytest.mark.slow
def test_killed_and_resumed_equals_undisturbed(many: str, trained: str, tmp_path: Path) -> None:
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    first = kill_after(command(many, trained, killed), killed, commits=2)
    second = kill_after(command(many, trained, killed), killed, commits=first + 2)
    assert first < second < 21
    # What a kill in the middle of a commit leaves: tables of a shard without its images file.
    remaining = {p.name for p in (killed / "objects").glob("*.parquet")}
    resumed = run_cli(*command(many, trained, killed))
    assert resumed.returncode == 0, resumed.stderr
    assert "going on with the interrupted run" in resumed.stdout
    assert remaining <= {p.name for p in (killed / "objects").glob("*.parquet")}
    assert len(list((killed / "_runs").iterdir())) == 1

    assert run_cli(*command(many, trained, undisturbed)).returncode == 0
    expected, found = tables(undisturbed), tables(killed)
    assert expected["images"].num_rows == 40
    assert expected["rejects"].num_rows == 2
    for name, table in expected.items():
        assert found[name].equals(table), name
    assert len(OutputDataset.open(str(killed)).committed_shards()) == 21

    again = run_cli(*command(many, trained, killed))
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_a_shard_that_is_written_again_replaces_itself(
    many: str, trained: str, tmp_path: Path, ray_cluster: None
) -> None:
    """A commit that was cut off before its images file is computed again, under the same names."""
    from jobs import predict
    from pipeline.config import PredictSettings

    output = tmp_path / "out"
    settings = PredictSettings(
        input=many, model=trained, output=str(output), images_per_shard=7, max_reject_share=1
    )
    predict.work(settings)
    expected = tables(output)
    images = sorted((output / "images").glob("*.parquet"))
    images[0].unlink()
    (output / "objects" / images[1].name).unlink()
    images[1].unlink()
    for summary in output.glob("_runs/*/summary.json"):
        summary.unlink()
    assert len(OutputDataset.open(str(output)).committed_shards()) == len(images) - 2
    predict.work(settings)
    for name, table in tables(output).items():
        assert table.equals(expected[name]), name
