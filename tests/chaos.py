"""Jobs in processes of their own, and ways to hurt them: what the tests of faults are made of."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.tables.schema import SCHEMAS
from tests.conftest import ROOT

NOT_COMPARED = {"run", "predicted_at"}


@dataclass
class Job:
    """A job that runs, its output in a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @classmethod
    def start(cls, words: list[str], log: Path, **environment: str) -> "Job":
        """Like a user's shell would, in a session of its own."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *words],
                cwd=ROOT,
                env=os.environ | {"RAY_AUTH_MODE": "disabled"} | environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, log)

    def wait(self, timeout: float = 240) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout:g} s:\n{self.text()}") from None

    def text(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    def wait_until(self, true: Callable[[], object], timeout: float = 120) -> None:
        """Wait for something that happens while the job runs."""
        end = time.monotonic() + timeout
        while not true():
            assert self.process.poll() is None, f"the job ended too early:\n{self.text()}"
            assert time.monotonic() < end, f"it never happened:\n{self.text()}"
            time.sleep(0.02)

    def processes(self, name: str) -> list[psutil.Process]:
        """Its Ray processes whose title has this in it, such as `PredictShard`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def kill_one(self, name: str, chance: random.Random) -> bool:
        """SIGKILL to one of them; false where there is none at the moment."""
        found = self.processes(name)
        if not found:
            return False
        try:
            chance.choice(found).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the driver, as an operator's last word; its Ray processes are its own."""
        try:
            mine = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            mine = []
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(mine, timeout=20)


def predict_words(images: str, model: str, output: str, *more: str) -> list[str]:
    """A prediction in small shards, so that there is much to interrupt."""
    words = ["jobs.predict", "--input", images, "--model", model, "--output", output]
    return [*words, "--images-per-shard", "2", "--max-reject-share", "1", *more]


def commits(output: Path) -> int:
    """Shards that are committed."""
    return len(list(output.glob("images/**/*.parquet")))


def tables(output: Path, without: tuple[str, ...] = ()) -> dict[str, pa.Table]:
    """Every file of every table, as a plain glob sees them, in a fixed order."""
    found = {}
    for name, schema in SCHEMAS.items():
        columns = [c for c in schema.names if c not in NOT_COMPARED and c not in without]
        files = sorted((output / name).glob("**/*.parquet"))
        parts = [pq.ParquetFile(f).read(columns) for f in files]
        keys = [c for c in ("uri", "image_id", "object_id", "class_id", "y0") if c in columns]
        rows = pa.concat_tables([schema.empty_table().select(columns), *parts])
        found[name] = rows.sort_by([(key, "ascending") for key in keys])
    return found


def assert_same(found: Path, expected: Path, without: tuple[str, ...] = ()) -> None:
    """The same rows in every table, to the last bit, but for some columns."""
    mine, theirs = tables(found, without), tables(expected, without)
    for name, table in theirs.items():
        assert mine[name].num_rows == table.num_rows, name
        assert mine[name].equals(table), name


def hooked(folder: Path, code: str) -> dict[str, str]:
    """Environment in which every Python process runs some code first, in its place in a library.

    For faults that no file can be made to cause, such as a decoder that crashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


CRASHING_DECODER = """
import os, signal
import pipeline.images.reader as reader

decode = reader.decode_image

def decode_image(data, uri, settings, **more):
    if data.endswith(b"CRASH"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.endswith(b"HANG"):
        signal.pause()
    if data.endswith(b"DEFECT"):
        raise ZeroDivisionError("a case that nobody thought of")
    once = os.environ.get("TESSERA_TEST_ONCE")
    if data.endswith(b"ONCE") and not os.path.exists(once):
        open(once, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is out
    return decode(data, uri, settings, **more)

reader.decode_image = decode_image
"""
"""By the last bytes of a file, which decoders don't look at."""


class Nodes:
    """Worker nodes of which one may be killed and replaced."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.nodes = [self._add() for _ in range(2)]

    def replace_one(self, chance: random.Random) -> None:
        """SIGKILL to a raylet and all of its workers, as when a machine is taken away."""
        node = self.nodes.pop(chance.randrange(len(self.nodes)))
        raylet = node.all_processes["raylet"][0].process
        family = psutil.Process(raylet.pid).children(recursive=True)
        raylet.kill()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.append(self._add())

    def kill_worker(self, name: str, chance: random.Random) -> bool:
        """SIGKILL to one of their processes whose title has this in it; false without one."""
        found = []
        for node in self.nodes:
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if name in " ".join(process.cmdline()):
                        found.append(process)
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(found).kill()
        return bool(found)

    def _add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=300 << 20)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, Nodes]]:
    """A Ray cluster of three nodes on this machine: its address, and its two workers."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 300 << 20, "include_dashboard": False}
    running = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield running.address, Nodes(running)
    finally:
        running.shutdown()
