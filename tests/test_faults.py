"""What dies on the way: processes, images that kill them, disks, the run itself.

Laws 1, 2 and 6: nothing lost, nothing twice, and the tables of a run that nothing happened to.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import duckdb
import pytest

from tests.chaos import (
    CRASHING_DECODER,
    Job,
    assert_same,
    cluster,
    commits,
    hooked,
    predict_words,
    tables,
)
from tests.conftest import run_cli


@pytest.fixture(scope="module")
def many(trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough images that there is a middle to interrupt; two files are bad."""
    from pipeline.synthetic import write_annotated

    folder = tmp_path_factory.mktemp("many")
    write_annotated(str(folder), [(160, 160)] * 40, ["test"] * 40, seed=300)
    for i in range(2):
        (folder / f"images/bad{i}.png").write_bytes(b"nothing like a PNG")
    return folder / "images"


@pytest.fixture(scope="module")
def undisturbed(many: Path, trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_cli(*predict_words(str(many), trained, str(output)))
    assert done.returncode == 0, done.stderr
    assert commits(output) == 21
    return output


def assert_whole(output: Path) -> None:
    verified = run_cli("jobs.verify", str(output))
    assert verified.returncode == 0, verified.stdout


@pytest.mark.slow
def test_killed_processes_cost_nothing_but_time(
    many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A reader, a predictor and a committer each, in the middle of their work."""
    output, chance = tmp_path / "out", random.Random(1)
    job = Job.start(predict_words(str(many), trained, str(output)), tmp_path / "log")
    for n, name in enumerate(("PredictShard", "CommitShard", "PredictShard", "read_shard")):
        job.wait_until(lambda n=n: commits(output) > 3 * n)
        end = time.monotonic() + 3  # a reader may have no more to do
        while not job.kill_one(name, chance) and time.monotonic() < end:
            time.sleep(0.01)
    assert job.wait() == 0, job.text()
    assert_same(output, undisturbed)
    assert_whole(output)
    assert "raylet" not in job.text()


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_with_at_once(
    many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    words = predict_words(str(many), trained, str(output))
    for n in (1, 6):
        job = Job.start(words, tmp_path / f"log{n}")
        job.wait_until(lambda n=n: commits(output) >= n)
        job.kill()
    assert commits(output) < 21
    started = time.monotonic()
    last = run_cli(*words)
    assert last.returncode == 0, last.stderr
    assert "going on with the interrupted run" in last.stdout
    assert "waiting" not in last.stdout  # its process is known to be gone
    assert time.monotonic() - started < 120
    assert_same(output, undisturbed)
    assert_whole(output)
    (run,) = (output / "_runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["images"], summary["rejects"]) == (40, 2)
    assert summary["reject_codes"] == {"unknown_format": 2}


@pytest.mark.slow
def test_a_lost_node_costs_nothing_but_time(
    many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A raylet and all of its workers go at once, as when a spot machine is taken away."""
    output = tmp_path / "out"
    with cluster() as (address, nodes):
        words = predict_words(str(many), trained, str(output))
        job = Job.start(words, tmp_path / "log", RAY_ADDRESS=address)
        job.wait_until(lambda: commits(output) >= 3)
        nodes.replace_one(random.Random(2))
        assert job.wait() == 0, job.text()
    assert_same(output, undisturbed)
    assert_whole(output)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_in_good_order(
    number: signal.Signals, many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    words = predict_words(str(many), trained, str(output))
    job = Job.start(words, tmp_path / "log")
    job.wait_until(lambda: commits(output) >= 2)
    job.process.send_signal(number)
    assert job.wait(timeout=20) == 128 + number, job.text()
    assert "the same command goes on" in job.text()
    assert "Traceback" not in job.text()
    (run,) = (output / "_runs").iterdir()
    (attempt,) = (run / "attempts").iterdir()
    told = json.loads(attempt.read_text())
    assert told["ended_by"].startswith("stopped by")
    assert not (run / "summary.json").exists()
    assert run_cli(*words).returncode == 0
    assert_same(output, undisturbed)


@pytest.mark.slow
def test_images_that_kill_become_rejects(
    many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Found among their neighbours, whose rows are those of any other run."""
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for source in many.iterdir():
        (images / source.name).symlink_to(source)
    good = sorted(p for p in many.iterdir() if p.suffix == ".png" and "bad" not in p.name)
    for name, ending in (("crash", b"CRASH"), ("defect", b"DEFECT"), ("once", b"ONCE")):
        (images / f"a-{name}.png").write_bytes(good[0].read_bytes() + ending)
    environment = hooked(tmp_path / "hook", CRASHING_DECODER)
    environment["TESSERA_TEST_ONCE"] = str(tmp_path / "happened")
    words = [*predict_words(str(images), trained, str(output)), "--images-per-shard", "8"]
    job = Job.start(words, tmp_path / "log", **environment)
    assert job.wait(timeout=400) == 0, job.text()
    assert (tmp_path / "happened").exists()
    rejects = f"read_parquet('{output}/rejects/**/*.parquet')"
    found = dict(duckdb.sql(f"select uri, code from {rejects}").fetchall())
    assert {Path(uri).name: code for uri, code in found.items() if "bad" not in uri} == {
        "a-crash.png": "crash",
        "a-defect.png": "defect",
    }
    assert tables(output)["images"].num_rows == 41
    assert_whole(output)
    again = Job.start(words, tmp_path / "log2")  # the decoder has been mended
    assert again.wait() == 0
    assert "nothing to do" in again.text()
    mended = Job.start([*words, "--retry-rejects"], tmp_path / "log3")
    assert mended.wait() == 0, mended.text()
    assert tables(output)["images"].num_rows == 43
    assert_whole(output)


@pytest.mark.soak
def test_an_image_that_hangs_becomes_a_reject(trained: str, many: Path, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    good = sorted(p for p in many.iterdir() if p.suffix == ".png" and "bad" not in p.name)
    for i in range(3):
        ending = b"HANG" if i == 1 else b""
        (images / f"{i}.png").write_bytes(good[i].read_bytes() + ending)
    environment = hooked(tmp_path / "hook", CRASHING_DECODER)
    words = [*predict_words(str(images), trained, str(output)), "--images-per-shard", "1"]
    job = Job.start([*words, "--stall-seconds", "30"], tmp_path / "log", **environment)
    assert job.wait(timeout=400) == 0, job.text()
    assert tables(output)["images"].num_rows == 2
    (reject,) = tables(output)["rejects"].to_pylist()
    assert (Path(reject["uri"]).name, reject["code"]) == ("1.png", "hang")
    assert_whole(output)


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk_below_ray_is_survived_or_told(
    many: Path, trained: str, undisturbed: Path, tmp_path: Path
) -> None:
    """The output has no room at first: one line, nothing half-written; with room it goes on."""
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode()}")
    try:
        words = predict_words(str(many), trained, str(small / "out"))
        job = Job.start(words, tmp_path / "log")
        assert job.wait(timeout=300) == 1, job.text()
        assert "No space left on device" in job.text()
        assert "Traceback" not in job.text()
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        assert run_cli(*words).returncode == 0
        assert_same(small / "out", undisturbed)
        assert_whole(small / "out")
    finally:
        subprocess.run(["umount", str(small)], check=False)


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_a_full_disk_where_ray_spills_is_told(trained: str, tmp_path: Path) -> None:
    """A shard that no memory holds, and no room to spill it: bounded tries, one line, no rows."""
    import subprocess

    from ray.cluster_utils import Cluster

    from pipeline.synthetic import encode_image, make_scene

    images, small, output = tmp_path / "images", tmp_path / "small", tmp_path / "out"
    images.mkdir()
    small.mkdir()
    scene = encode_image(make_scene(1500, 1500, 5, 1).image, "png")
    for i in range(6):
        (images / f"{i}.png").write_bytes(scene)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)]
    mounted = subprocess.run(mount, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode()}")
    head = {
        "num_cpus": 2,
        "object_store_memory": 80 << 20,
        "include_dashboard": False,
        "object_spilling_directory": str(small),
    }
    running = Cluster(initialize_head=True, head_node_args=head)
    try:
        words = predict_words(str(images), trained, str(output), "--images-per-shard", "6")
        job = Job.start(words, tmp_path / "log", RAY_ADDRESS=running.address)
        assert job.wait(timeout=400) == 1, job.text()
        last = job.text().splitlines()[-1]
        assert last.startswith("error: no image could be finished in 4 tries")
        assert not commits(output)
    finally:
        running.shutdown()
        subprocess.run(["umount", str(small)], check=False)
    again = predict_words(str(images), trained, str(output), "--images-per-shard", "6")
    assert run_cli(*again).returncode == 0
    assert commits(output) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_tenth_of_two_thousand_is_bad(trained: str, tmp_path: Path) -> None:
    """1,800 image rows and 200 rejects, each with its URI and the code of what is wrong."""
    from jobs import predict
    from pipeline.config import PredictSettings
    from pipeline.synthetic import encode_image, make_scene
    from tests.test_reader import BAD

    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    good = [encode_image(make_scene(32, 32, 2, i).image, "png") for i in range(20)]
    expected = {}
    kinds = sorted(BAD)
    assert len(kinds) >= 12
    for i in range(2000):
        if i % 10:
            (images / f"{i:04d}.png").write_bytes(good[i % len(good)])
            continue
        kind = kinds[i // 10 % len(kinds)]
        data, name = BAD[kind]
        path = images / f"{i:04d}{Path(name).suffix}"
        path.write_bytes(data)
        expected[str(path)] = kind.partition("-")[0]
    given = PredictSettings(input=str(images), model=trained, output=str(output))
    assert predict.work(given) == 0  # a tenth is the limit, not over it
    rejects = f"read_parquet('{output}/rejects/**/*.parquet')"
    rows = duckdb.sql(f"select uri, code from {rejects}").fetchall()
    assert len(rows) == 200
    assert dict(rows) == expected
    table = f"read_parquet('{output}/images/**/*.parquet')"
    counted = duckdb.sql(f"select count(*), count(distinct uri) from {table}").fetchall()
    assert counted == [(1800, 1800)]
