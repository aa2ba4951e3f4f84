"""On a cluster as on one machine: jobs that are submitted, nodes that come and go, one result."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.chaos import Job, assert_same, predict_words
from tests.conftest import ROOT, forget_clients, run_cli
from tests.monitoring import ONLY_WITH_GPUS, named_metrics
from tests.ray_nodes import RayNodes, ray_nodes
from tests.test_s3_faults import fetched

pytestmark = pytest.mark.slow

QUICK = ["--crop", "96", "--network.depth", "2", "--network.width", "8", "--min-steps", "10",
         "--no-record.tensorboard"]  # fmt: skip


@pytest.fixture(scope="module")
def nodes(bucket: str) -> Iterator[RayNodes]:
    with ray_nodes() as running:
        yield running


@pytest.fixture(scope="module")
def on_s3(bucket: str, annotated: str) -> str:
    """Where annotated images lie, and images to predict, one of them bad."""
    from pipeline.synthetic import encode_image, make_scene

    fs = fsspec.filesystem("s3", use_listings_cache=False)
    root = f"{bucket}/cluster"
    fs.put(annotated, f"{root}/annotated", recursive=True)
    for i in range(30):
        fs.pipe(f"{root}/images/{i:02d}.png", encode_image(make_scene(160, 160, 9, i).image, "png"))
    fs.pipe(f"{root}/images/bad.png", b"nothing like a PNG")
    return root


def submitted(nodes: RayNodes, job: str, *flags: str) -> list[str]:
    return ["jobs.submit", job, "--address", nodes.job_server, *flags]


def submit(nodes: RayNodes, job: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Submit a job and follow it to its end."""
    words = [sys.executable, "-m", *submitted(nodes, job, *flags)]
    return subprocess.run(
        words, cwd=ROOT, env=nodes.environment, capture_output=True, text=True, timeout=400
    )


@pytest.fixture(scope="module")
def model(nodes: RayNodes, on_s3: str) -> str:
    """A bundle that the cluster has trained, in two processes on two nodes."""
    output = f"{on_s3}/model"
    flags = ["--data", f"{on_s3}/annotated", "--output", output, "--workers", "2", "--epochs", "2"]
    done = submit(nodes, "train", *flags, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"model bundle: {output}" in done.stdout
    return output


@pytest.fixture(scope="module")
def there(nodes: RayNodes, on_s3: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the cluster has predicted, with a node added and another taken away meanwhile."""
    output, folder = f"{on_s3}/there", tmp_path_factory.mktemp("there")
    _, *flags = predict_words(f"{on_s3}/images", model, output)
    job = Job.start(submitted(nodes, "predict", *flags), folder / "log", **nodes.environment)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    job.wait_until(lambda: len(fs.find(f"{output}/images")) >= 1)
    nodes.add()
    job.wait_until(lambda: len(fs.find(f"{output}/images")) >= 4)
    nodes.kill_one()
    assert job.wait(400) == 0, job.text()
    return output


def test_tables_are_those_of_a_run_on_one_machine(
    nodes: RayNodes, on_s3: str, model: str, there: str, tmp_path: Path
) -> None:
    here = f"{on_s3}/here"
    alone = run_cli(*predict_words(f"{on_s3}/images", model, here))
    assert alone.returncode == 0, alone.stderr
    assert_same(fetched(there, tmp_path / "there"), fetched(here, tmp_path / "here"))
    verified = submit(nodes, "verify", there)
    assert verified.returncode == 0, verified.stdout
    assert "nothing is wrong" in verified.stdout


def test_the_same_command_is_the_same_submission(
    nodes: RayNodes, on_s3: str, model: str, tmp_path: Path
) -> None:
    flags = [*predict_words(f"{on_s3}/images", model, f"{on_s3}/twice")[1:], "--log", "json"]
    first = Job.start(submitted(nodes, "predict", *flags), tmp_path / "log", **nodes.environment)
    first.wait_until(lambda: '"event": "plan"' in first.text())
    second = submit(nodes, "predict", *flags)
    assert second.returncode == first.wait() == 0
    assert "goes on already; following it" in second.stderr
    assert '"event": "result"' in second.stdout
    lines = [line for line in second.stdout.splitlines() if line.startswith("{")]
    events = [json.loads(line)["event"] for line in lines]
    assert events.count("plan") == events.count("result") == 1
    third = submit(nodes, "predict", *flags)
    assert third.returncode == 0
    assert "is done already; --again runs it once more" in third.stderr
    again = submit(nodes, "predict", *flags, "--again")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


def test_exit_codes_come_through_and_what_failed_is_tried_again(
    nodes: RayNodes, on_s3: str, model: str
) -> None:
    flags = ["--input", f"{on_s3}/nowhere", "--model", model, "--output", f"{on_s3}/failed"]
    first = submit(nodes, "predict", *flags)
    assert first.returncode == 1
    assert "error: " in first.stdout
    second = submit(nodes, "predict", *flags)
    assert second.returncode == 1
    assert "has failed; this is the next attempt" in second.stderr
    few = ["--input", f"{on_s3}/images", "--model", model, "--output", f"{on_s3}/few"]
    assert submit(nodes, "predict", *few, "--max-reject-share", "0").returncode == 3


def test_a_stopped_job_goes_on(nodes: RayNodes, on_s3: str, model: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    one = fs.cat_file(f"{on_s3}/images/00.png")
    # So many that the job is not over before it is told to stop, on a fast machine either.
    fs.pipe({f"{on_s3}/many/{i:03d}.png": one for i in range(200)})
    flags = predict_words(f"{on_s3}/many", model, f"{on_s3}/stopped")[1:]
    job = Job.start(submitted(nodes, "predict", *flags), tmp_path / "log", **nodes.environment)
    job.wait_until(lambda: len(fs.find(f"{on_s3}/stopped/images")) >= 2)
    stop = submit(nodes, "predict", *flags, "--stop")
    assert stop.returncode == 0, stop.stderr
    assert job.wait() == 143
    assert "the same command goes on" in job.text()
    last = submit(nodes, "predict", *flags)
    assert last.returncode == 0
    assert "going on with the interrupted run" in last.stdout


def test_without_the_token_nothing_is_run(nodes: RayNodes, on_s3: str) -> None:
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "guessed"}):
        words = [sys.executable, "-m", *submitted(nodes, "count", f"{on_s3}/here")]
        done = subprocess.run(
            words, cwd=ROOT, env=nodes.environment | wrong, capture_output=True, text=True
        )
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "wants its token" in line


def test_a_training_grows_and_shrinks_with_the_cluster(
    nodes: RayNodes, on_s3: str, tmp_path: Path
) -> None:
    """With `--workers 1:2`, a node goes and comes back; all epochs are done."""
    output = f"{on_s3}/elastic"
    flags = ["--data", f"{on_s3}/annotated", "--output", output, "--workers", "1:2", *QUICK,
             "--epochs", "9", "--min-steps", "60", "--checkpoint-minutes", "0.05"]  # fmt: skip
    words = submitted(nodes, "train", *flags, "--log", "json")
    job = Job.start(words, tmp_path / "log", **nodes.environment)
    job.wait_until(lambda: _epochs(job) >= 1, timeout=240)
    nodes.kill_one()
    job.wait_until(lambda: _epochs(job) >= 3, timeout=240)
    nodes.add()
    assert job.wait(400) == 0, job.text()
    forget_clients()
    text = fsspec.filesystem("s3", use_listings_cache=False).cat_file(f"{output}/metrics.jsonl")
    lines = [json.loads(line) for line in text.decode().splitlines()]
    told = [(line["epoch"], line["step"]) for line in lines if not line["final"]]
    assert told == sorted(set(told))  # where validating takes long, some epochs go without
    assert told[-1] == (9, 9 * 60)


def _epochs(job: Job) -> int:
    """Validations that it has told of."""
    return len(set(re.findall(r'"epoch": (\d+), "score"', job.text())))


def test_every_metric_that_is_watched_is_there(nodes: RayNodes, there: str) -> None:
    end = time.monotonic() + 60
    watched = named_metrics() - ONLY_WITH_GPUS
    while missing := {name for name in watched if name not in nodes.metrics()}:
        assert time.monotonic() < end, missing
        time.sleep(2)
    told = nodes.metrics()
    labels = rf'[^}}]*output="{there}"[^}}]*tessera_job="predict"'
    assert re.search(rf"ray_tessera_images_total{{{labels}}} 30.0", told)
    assert re.search(rf'ray_tessera_rejects_total{{[^}}]*code="unknown_format"{labels}}} 1.0', told)
    assert re.search(rf"ray_tessera_images_left{{{labels}}} 0.0", told)
    assert re.search(rf'ray_tessera_runs_total{{[^}}]*outcome="done"{labels}}} 1.0', told)
