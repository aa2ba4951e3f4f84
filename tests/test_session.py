"""Ray on this machine: out of reach from elsewhere, and clear about what does not fit."""

import ipaddress
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.distributed import session
from pipeline.distributed.session import Resources, check_computes, check_fits
from pipeline.errors import SettingsError, StoppedError, TesseraError
from pipeline.synthetic import write_annotated
from tests.chaos import Job, commits, predict_words
from tests.conftest import ROOT


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_listens_beyond_loopback() -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [s for p in processes for s in p.net_connections() if s.status == psutil.CONN_LISTEN]
    assert len(sockets) > 5
    addresses = [ipaddress.ip_address(s.laddr.ip.removeprefix("::ffff:")) for s in sockets]
    reachable = [str(address) for address in addresses if not address.is_loopback]
    assert reachable == []


@pytest.mark.slow
def test_sigterm_is_one_line_while_ray_is_there() -> None:
    """Ray's own handlers print a stack of C++, and abort."""
    script = (
        "import os, signal, time\n"
        "from jobs._main import run_job\n"
        "from pipeline.config import VerifySettings\n"
        "from pipeline.distributed.session import ray_session\n"
        "def work(settings):\n"
        "    with ray_session():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "raise SystemExit(run_job(VerifySettings, work, ['nowhere']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=400
    )
    assert (done.returncode, done.stderr) == (143, "error: stopped by SIGTERM\n")


@pytest.mark.slow
def test_what_goes_on_after_a_session_starts_no_ray_of_its_own() -> None:
    script = (
        "import ray\n"
        "from pipeline.distributed.session import ray_session\n"
        "with ray_session():\n"
        "    pass\n"
        "try:\n"
        "    ray.put(1)\n"
        "except Exception:\n"
        "    print('refused', ray.is_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=400
    )
    assert done.stdout == "refused False\n", done.stderr


def test_sigterm_while_ray_starts_is_whose_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray exits with the signal's number there, and says nothing."""
    heard = list[int]()

    def begin(store_bytes: int) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "_start_here", begin)
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(StoppedError, match="stopped by SIGTERM"):
            session._connect(1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


@pytest.mark.slow
def test_with_a_token_on_this_machine_too(tmp_path: Path) -> None:
    """As by default, which the other tests turn off: Ray makes a token in the home folder."""
    write_annotated(str(tmp_path), [(64, 64)], ["test"], seed=1)
    words = predict_words(str(tmp_path / "images"), "models/nuclei", str(tmp_path / "out"))
    home = {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    job = Job.start(words, tmp_path / "log", **home)
    assert job.wait() == 0, job.text()
    assert (tmp_path / ".ray/auth_token").exists()
    assert commits(tmp_path / "out") == 1


@pytest.mark.slow
def test_where_tmpdir_is_too_deep_for_sockets_ray_takes_another(tmp_path: Path) -> None:
    write_annotated(str(tmp_path), [(64, 64)], ["test"], seed=1)
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    words = predict_words(str(tmp_path / "images"), "models/nuclei", str(tmp_path / "out"))
    job = Job.start(words, tmp_path / "log", TMPDIR=str(deep))
    assert job.wait() == 0, job.text()
    assert commits(tmp_path / "out") == 1


def test_a_folder_that_ray_may_not_write_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def refuse(store_bytes: int) -> None:
        raise OSError(30, "Read-only file system", "/tmp/ray")

    monkeypatch.setattr(session, "_start_here", refuse)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)  # of the other tests' session
    with pytest.raises(TesseraError, match="'/tmp/ray'; RAY_TMPDIR names another folder"):
        session._connect(1)


def test_a_cluster_without_workers_is_refused() -> None:
    head = Resources(nodes=1, cpus=0, gpus=0, largest_node_cpus=0, largest_node_memory=1 << 30)
    with pytest.raises(TesseraError, match="has no node to compute on"):
        check_computes(head)


def test_more_workers_than_fit_are_refused() -> None:
    here = Resources(nodes=1, cpus=2, gpus=0, largest_node_cpus=2, largest_node_memory=1 << 30)
    check_fits(8, here)
    with pytest.raises(SettingsError, match="setting workers: at most 8 fit on 2 CPUs, not 9"):
        check_fits(9, here)
    with pytest.raises(SettingsError, match="at most 1 fit on 1 GPUs, not 2"):
        check_fits(
            2, Resources(nodes=1, cpus=8, gpus=1, largest_node_cpus=8, largest_node_memory=1 << 30)
        )
