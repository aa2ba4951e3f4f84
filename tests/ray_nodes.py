"""A Ray cluster of several nodes on this machine, started as users start one, with a token."""

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import psutil

from tests.conftest import ROOT
from tests.object_store import end_with_parent, free_port

_BIN = Path(sys.executable).parent
_START_SECONDS = 120


@dataclass
class RayNodes:
    """The head, without CPUs, and worker nodes that come and go; each is a raylet of its own."""

    folder: Path
    port: int
    dashboard_port: int
    environment: dict[str, str]
    head: "subprocess.Popen[bytes] | None" = None
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    started: int = 0

    @property
    def job_server(self) -> str:
        """What `jobs.submit` takes as its address."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def add(self) -> None:
        """One more worker node with one CPU; back once the cluster counts it."""
        before = self.alive()
        self.workers.append(self._start("--address", f"127.0.0.1:{self.port}", "--num-cpus", "1"))
        self._wait(lambda: bool(self.alive() - before))  # one that is gone counts for a while

    def kill_one(self) -> None:
        """SIGKILL to a worker node, all of it, as when a machine is taken away."""
        _kill(self.workers.pop(0))

    def alive(self) -> set[str]:
        """Ids of the nodes that the cluster counts, the head among them."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = Request(
            f"{self.job_server}/nodes?view=summary", headers={"Authorization": f"Bearer {token}"}
        )
        with contextlib.suppress(OSError), urlopen(request, timeout=10) as answer:
            nodes = json.load(answer)["data"]["summary"]
            states = [node["raylet"] for node in nodes]
            return {one["nodeId"] for one in states if one.get("state") == "ALIVE"}
        return set()

    def metrics(self) -> str:
        """What Prometheus would scrape of the head."""
        text = (self.folder / "ray/prom_metrics_service_discovery.json").read_text()
        pages = []
        for target in sorted(set(re.findall(r"[\d.]+:\d+", text))):
            with contextlib.suppress(OSError), urlopen(f"http://{target}/metrics") as page:
                pages.append(page.read().decode())
        return "\n".join(pages)

    def _start(self, *flags: str) -> "subprocess.Popen[bytes]":
        self.started += 1
        common = ("--block", "--node-ip-address", "127.0.0.1", "--dashboard-agent-listen-port", "0",
                  "--object-store-memory", str(200 << 20))  # fmt: skip
        with (self.folder / f"node{self.started}.log").open("wb") as log:
            return subprocess.Popen(
                [str(_BIN / "ray"), "start", *flags, *common],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _wait(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_SECONDS
        while not true():
            assert time.monotonic() < end, "the cluster did not start"
            time.sleep(0.5)

    def start(self) -> None:
        """The head."""
        self.head = self._start(
            "--head", "--num-cpus", "0", "--port", str(self.port),
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.dashboard_port),
            "--ray-client-server-port", str(free_port()), "--temp-dir", str(self.folder / "ray"),
        )  # fmt: skip
        self._wait(lambda: len(self.alive()) == 1)

    def stop(self) -> None:
        """Everything."""
        for process in [*self.workers, self.head]:
            if process is not None:
                _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """It and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()


@contextlib.contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """A cluster of a head and two worker nodes that asks for a token."""
    # Short, because the paths of Unix sockets are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield from _nodes(Path(folder))


def _nodes(folder: Path) -> Iterator[RayNodes]:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_")
    } | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
    }
    nodes = RayNodes(folder, free_port(), free_port(), environment)
    try:
        nodes.start()
        for _ in range(2):
            nodes.add()
        yield nodes
    finally:
        nodes.stop()
