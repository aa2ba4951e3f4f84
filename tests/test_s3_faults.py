"""Backfills and trainings all of whose files lie on an object store that misbehaves."""

import shutil
import time
from pathlib import Path

import fsspec
import pytest

from tests.chaos import Job, assert_same, predict_words
from tests.fault_proxy import FaultProxy, Faults
from tests.object_store import S3Server

WORDS = ("--images-per-shard", "8")


@pytest.fixture(scope="module")
def on_s3(bucket: str, trained: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """URIs of images and of a model."""
    from pipeline.synthetic import write_annotated

    folder = tmp_path_factory.mktemp("on_s3")
    write_annotated(str(folder / "many"), [(128, 128)] * 48, ["test"] * 48, seed=700)
    (folder / "many/images/bad.png").write_bytes(b"nothing like a PNG")
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    root = f"{bucket}/faults"
    fs.put(str(folder / "many/images"), f"{root}/images", recursive=True)
    fs.put(trained, f"{root}/model", recursive=True)
    return f"{root}/images", f"{root}/model"


@pytest.fixture(scope="module")
def undisturbed(
    on_s3: tuple[str, str], bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of a run that nothing happened to, copied here."""
    folder, output = tmp_path_factory.mktemp("undisturbed"), f"{bucket}/faults/undisturbed"
    job = Job.start(predict_words(*on_s3, output, *WORDS), folder / "log")
    assert job.wait() == 0, job.text()
    return fetched(output, folder / "out")


def fetched(uri: str, folder: Path) -> Path:
    """A copy of an output, to look into."""
    shutil.rmtree(folder, ignore_errors=True)
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    for path in fs.find(uri):
        target = folder / path.removeprefix(uri.removeprefix("s3://")).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(path))
    return folder


@pytest.mark.slow
def test_a_store_that_misbehaves_costs_time_not_results(
    on_s3: tuple[str, str],
    undisturbed: Path,
    bucket: str,
    faulty_store: FaultProxy,
    tmp_path: Path,
) -> None:
    faulty_store.faults = Faults(slow_down=0.2, reset=0.05, cut=0.02)
    words = predict_words(*on_s3, f"{bucket}/faults/faulty", *WORDS)
    job = Job.start(words, tmp_path / "log")
    assert job.wait(400) == 0, job.text()
    assert min(faulty_store.injected[kind] for kind in ("slow_down", "reset", "cut")) > 0
    faulty_store.faults = Faults()
    assert_same(fetched(f"{bucket}/faults/faulty", tmp_path / "out"), undisturbed)
    verified = Job.start(["jobs.verify", f"{bucket}/faults/faulty"], tmp_path / "verify")
    assert verified.wait() == 0, verified.text()


@pytest.mark.soak
def test_a_killed_driver_on_s3_is_gone_on_with_at_once(
    on_s3: tuple[str, str], undisturbed: Path, bucket: str, tmp_path: Path
) -> None:
    output = f"{bucket}/faults/killed"
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    words = predict_words(*on_s3, output, "--images-per-shard", "2")
    job = Job.start(words, tmp_path / "log")
    job.wait_until(lambda: len(fs.find(f"{output}/images")) >= 3)
    job.kill()
    again = Job.start(words, tmp_path / "log2")
    assert again.wait() == 0, again.text()
    assert "going on with the interrupted run" in again.text()
    assert "waiting" not in again.text()
    found = fetched(output, tmp_path / "out")
    assert len(list(found.glob("images/*.parquet"))) == 25  # of other shards, of the same rows
    assert_same(found, undisturbed, without=("shard",))


def test_a_wrong_secret_is_one_line_and_writes_nothing(
    on_s3: tuple[str, str], bucket: str, object_store: S3Server, tmp_path: Path
) -> None:
    if not object_store.checks_credentials:
        pytest.skip("this server takes any credentials")
    words = predict_words(*on_s3, f"{bucket}/faults/wrong")
    job = Job.start(words, tmp_path / "log", AWS_SECRET_ACCESS_KEY="not-the-secret")
    assert job.wait() == 1
    (line,) = job.text().splitlines()
    assert line.startswith("error: cannot")
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "not-the-secret" not in line
    assert not fsspec.filesystem("s3", use_listings_cache=False).find(f"{bucket}/faults/wrong")


@pytest.mark.slow
def test_credentials_that_expire_end_the_run_and_new_ones_go_on(
    on_s3: tuple[str, str],
    undisturbed: Path,
    bucket: str,
    faulty_store: FaultProxy,
    tmp_path: Path,
) -> None:
    output = f"{bucket}/faults/expired"
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    words = predict_words(*on_s3, output, "--images-per-shard", "2")
    job = Job.start(words, tmp_path / "log")
    job.wait_until(lambda: len(fs.find(f"{output}/images")) >= 3)
    faulty_store.faults = Faults(expired=1)
    assert job.wait() == 1
    assert "the session token has expired: log in again" in job.text().splitlines()[-1]
    faulty_store.faults = Faults()
    again = Job.start(words, tmp_path / "log2")
    assert again.wait() == 0, again.text()
    assert_same(fetched(output, tmp_path / "out"), undisturbed, without=("shard",))


@pytest.mark.slow
def test_a_training_outlives_a_store_that_is_away_and_tells_one_that_stays_away(
    bucket: str, annotated: str, faulty_store: FaultProxy, tmp_path: Path
) -> None:
    output = f"{bucket}/faults/trained"
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    words = ["jobs.train", "--data", annotated, "--output", output, "--epochs", "4000", "--crop",
             "64", "--min-steps", "5", "--network.depth", "2", "--network.width", "8",
             "--checkpoint-minutes", "0.02", "--no-record.tensorboard",
             "--max-failures", "0"]  # fmt: skip
    (disk := tmp_path / "disk").mkdir()

    def checkpoints() -> set[str]:
        return {path for path in fs.find(output) if path.endswith("/state.json")}

    job = Job.start(words, tmp_path / "log", TMPDIR=str(disk), RAY_TMPDIR="/tmp")
    job.wait_until(checkpoints, 240)
    before = checkpoints()
    faulty_store.faults = Faults(refuse=True)
    time.sleep(60)  # longer than any one call is tried
    faulty_store.faults = Faults()
    job.wait_until(lambda: checkpoints() - before, 240)
    assert "workers were lost" not in job.text(), "training went on computing"
    faulty_store.faults = Faults(expired=1)
    assert job.wait() == 1
    assert "Traceback" not in job.text()
    last = job.text().splitlines()[-1]
    assert "the session token has expired: log in again" in last
    assert last.endswith("the same command with --resume goes on from the last checkpoint")
    assert list(disk.glob("tessera-*")) == [], "checkpoints that were on their way"
