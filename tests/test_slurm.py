"""The Slurm job, with stubs for Slurm, Ray and Python that tell what they were asked."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.config import PredictSettings
from pipeline.parsing import load
from tests.conftest import ROOT
from tests.manifests import tool

SLURM = ROOT / "infra/slurm/predict.sbatch"


STUBS = {
    "scontrol": 'case $1 in show) printf "node-a\\nnode-b\\n" ;; esac; echo "scontrol $*" >>"$LOG"',
    # The same command on both nodes, where Slurm grants different things.
    "srun": """
        echo "srun $*" >>"$LOG"
        while [[ $1 == --* ]]; do shift; done
        trap 'kill $(jobs -p)' TERM
        SLURM_NODEID=0 SLURM_CPUS_ON_NODE=12 SLURM_GPUS_ON_NODE=2 "$@" &
        SLURM_NODEID=1 SLURM_CPUS_ON_NODE=6 "$@" &
        wait
    """,
    "ray": """
        if [ "$1" = health-check ]; then grep -q -- --head "$LOG"; exit; fi
        echo "ray $* $RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >>"$LOG"
        exec sleep 60
    """,
    "python": """
        if [ "$1" = -c ]; then
            until [ "$(grep -c '^ray start' "$LOG")" -eq "$3" ]; do sleep 0.05; done
            echo joined >>"$LOG"
            exit
        fi
        echo "python $*" >>"$LOG"
        [ -z "${DONE:-}" ] || exit "$DONE"
        trap 'echo stopped >>"$LOG"; exit 143' TERM
        while true; do sleep 0.05; done
    """,
}


@contextmanager
def slurm_job(tmp_path: Path, **env: str) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """The batch script as Slurm runs it, with stubs for all that it calls, and their log."""
    stubs, log = tmp_path / "bin", tmp_path / "log"
    stubs.mkdir()
    log.touch()
    for name, body in STUBS.items():
        (stubs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (stubs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_ON_NODE": "12"}
    path = f"{stubs}:{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", SLURM, "--input", "in", "--model", "m", "--output", "out"],
        env={"PATH": path, "HOME": str(tmp_path), "LOG": str(log)} | slurm | env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, log
    finally:
        process.kill()
        process.communicate()


def wait_for(log: Path, text: str) -> None:
    end = time.monotonic() + 30
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def test_slurms_grant_is_what_ray_gets(tmp_path: Path) -> None:
    with slurm_job(tmp_path, DONE="0") as (process, log):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        lines = log.read_text().splitlines()
    [head] = [line for line in lines if "--head" in line]
    [worker] = [line for line in lines if "--address=" in line]
    assert "--port=24711 --num-cpus=12 --num-gpus=2" in head
    assert "--address=node-a:24711 --num-cpus=6 --num-gpus=0" in worker
    # Both are behind a token that nobody else can read, and that is gone at the end.
    assert head.endswith("token 600")
    assert worker.endswith("token 600")
    assert list((tmp_path / ".ray").iterdir()) == []
    assert lines[-2] == "joined"
    flags = lines[-1].removeprefix("python -m jobs.predict ").split()
    assert load(PredictSettings, flags, {}).output == "out"


def test_cpus_a_task_are_what_ray_gets_where_slurm_says_them(tmp_path: Path) -> None:
    with slurm_job(tmp_path, DONE="0", SLURM_CPUS_PER_TASK="3") as (process, log):
        process.communicate(timeout=60)
        text = log.read_text()
    assert text.count("--num-cpus=3") == 2
    assert "--cpus-per-task=3" in text


@pytest.mark.parametrize(
    ("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=lambda v: str(v)
)
def test_the_run_stops_in_good_order_and_goes_on_after_the_time_limit(
    tmp_path: Path, number: signal.Signals, requeued: bool
) -> None:
    with slurm_job(tmp_path) as (process, log):
        wait_for(log, "jobs.predict")
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 143
        assert "stopped\n" in log.read_text()
        assert ("scontrol requeue 4711" in log.read_text()) == requeued


def test_a_failure_of_the_run_is_one_of_the_job(tmp_path: Path) -> None:
    with slurm_job(tmp_path, DONE="3") as (process, log):
        process.communicate(timeout=60)
        assert process.returncode == 3
        assert "requeue" not in log.read_text()


def test_the_slurm_job_is_sound_bash() -> None:
    command = [tool("shellcheck"), "--severity=warning", SLURM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""
    directives = re.findall(r"^#SBATCH --(\S+)", SLURM.read_text(), re.M)
    assert {"requeue", "open-mode=append", "signal=B:USR1@120"} <= set(directives)
