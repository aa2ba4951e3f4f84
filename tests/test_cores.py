"""A process takes the cores that it is granted, not those of the machine."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import pyarrow as pa
from pipeline.cores import granted_cores, use_granted_cores
from pipeline.plan.database import Database
import tempfile

use_granted_cores()
with tempfile.TemporaryDirectory() as folder:
    (threads,) = Database(folder).numbers("select current_setting('threads')")
print(granted_cores(), pa.cpu_count(), threads)
"""


def told(code: str, cores: set[int], **environment: str) -> str:
    """What a process says that may use some cores only."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return done.stdout.strip()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is only one core")
def test_affinity_is_honoured_wherever_threads_are_made() -> None:
    first, *_ = os.sched_getaffinity(0)
    assert told(CODE, {first}) == "1 1 1"


def test_a_limit_may_be_lower_than_the_grant() -> None:
    everything = os.sched_getaffinity(0)
    assert told(CODE, everything, LOKY_MAX_CPU_COUNT="1") == "1 1 1"


@pytest.mark.slow
def test_ray_has_as_many() -> None:
    code = """
from pipeline.distributed.session import ray_session
with ray_session() as resources:
    print(resources.cpus)
"""
    assert told(code, os.sched_getaffinity(0), LOKY_MAX_CPU_COUNT="1") == "1.0"
