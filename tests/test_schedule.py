"""The schedule: the pod that launches a run, against an API server on loopback."""

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.conftest import ROOT


def launcher() -> ModuleType:
    path = ROOT / "infra/kubernetes/components/schedule/launch.py"
    spec = importlib.util.spec_from_file_location("launch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ApiServer(ThreadingHTTPServer):
    """As much of Kubernetes as keeps RayJobs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ApiHandler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.token, self.selector = "secret", ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ApiHandler(BaseHTTPRequestHandler):
    server: ApiServer
    path_of_jobs = "/apis/ray.io/v1/namespaces/tessera/rayjobs"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?labelSelector=")
        name = path.removeprefix(self.path_of_jobs).strip("/")
        if name:
            self.answer(200 if name in self.server.jobs else 404, self.server.jobs.get(name, {}))
            return
        key, _, value = query.partition("%3D")
        jobs = self.server.jobs.values()
        chosen = [j for j in jobs if j["metadata"].get("labels", {}).get(key) == value]
        self.answer(200, {"items": chosen})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = job["metadata"]["name"]
        if name in self.server.jobs:
            self.answer(409, {})
            return
        self.server.jobs[name] = job
        self.answer(201, job)

    def answer(self, code: int, body: dict[str, Any]) -> None:
        if self.headers["Authorization"] != f"Bearer {self.server.token}":
            code, body = 403, {}
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        server.jobs["nightly"] = {
            "metadata": {"name": "nightly"},
            "spec": {"entrypoint": "python -m jobs.predict", "suspend": True},
            "status": {"jobDeploymentStatus": "Suspended"},
        }
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "namespace").write_text("tessera")
    (tmp_path / "token").write_text("secret")
    return tmp_path


# The minute 29511480 since 1970 is 2026-02-10 02:00 UTC.
ENV = {"TEMPLATE": "nightly", "JOB_NAME": "nightly-29511480", "JOB_UID": "abc"}
RUN = "nightly-2026-02-10-0200"


def test_a_run_is_launched_from_the_template(api: ApiServer, account: Path) -> None:
    assert launcher().launch(ENV, api.url, account) == f"{RUN} is launched"
    run = api.jobs[RUN]
    assert run["spec"] == {"entrypoint": "python -m jobs.predict", "suspend": False}
    assert run["metadata"]["labels"] == {"tessera-schedule": "nightly"}
    assert run["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly-29511480", "uid": "abc"}
    ]


def test_a_run_goes_to_kueues_queue(api: ApiServer, account: Path) -> None:
    launcher().launch(ENV | {"QUEUE": "tessera"}, api.url, account)
    assert api.jobs[RUN]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "tessera"


def test_a_run_by_hand_keeps_its_name(api: ApiServer, account: Path) -> None:
    launcher().launch(ENV | {"JOB_NAME": "nightly-again"}, api.url, account)
    assert "nightly-again" in api.jobs


def test_a_run_that_exists_is_not_launched_again(api: ApiServer, account: Path) -> None:
    launcher().launch(ENV, api.url, account)
    api.jobs[RUN]["status"] = {"jobDeploymentStatus": "Complete"}
    before = json.dumps(api.jobs)
    assert launcher().launch(ENV, api.url, account) == f"{RUN} is not launched: it exists already"
    assert json.dumps(api.jobs) == before


@pytest.mark.parametrize("status", [None, "Initializing", "Running", "Retrying", "Suspended"])
def test_nothing_is_launched_beside_a_run(
    api: ApiServer, account: Path, status: str | None
) -> None:
    launcher().launch(ENV, api.url, account)
    api.jobs[RUN]["status"] = {"jobDeploymentStatus": status} if status else {}
    said = launcher().launch(ENV | {"JOB_NAME": "nightly-29512920"}, api.url, account)
    assert said == f"nightly-2026-02-11-0200 is not launched: {RUN} is still at work"
    assert set(api.jobs) == {"nightly", RUN}
    api.jobs[RUN]["status"] = {"jobDeploymentStatus": "Failed"}
    launcher().launch(ENV | {"JOB_NAME": "nightly-29512920"}, api.url, account)
    assert "nightly-2026-02-11-0200" in api.jobs


def test_what_the_api_server_refuses_fails(
    api: ApiServer, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.token = "another"
    with pytest.raises(HTTPError, match="403"):
        launcher().launch(ENV, api.url, account)
    # As the pod runs it: nobody answers, so the Job fails and is tried again.
    environment = ENV | {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher().main() == 1


# The cluster on EC2
