"""Fixtures that several test modules share: one Ray session, one small trained model."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fault_proxy import FaultProxy, fault_proxy
from tests.object_store import S3Server, s3_server

if TYPE_CHECKING:
    from tests.laws import Scene

ROOT = Path(__file__).parent.parent
DSB2018 = Path(os.environ.get("TESSERA_DSB2018", ROOT.parent / "shared/data/dsb2018"))

# Ray writes an authentication token below the home folder; tests leave the user's alone.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def dsb2018() -> Path:
    if not (DSB2018 / "manifest.csv").exists():
        pytest.skip("the DSB2018 images are not here; TESSERA_DSB2018 says where they are")
    return DSB2018


_STORE = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def object_store(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    """An S3 server of its own on loopback: Ceph's, or moto's where that is not installed."""
    with s3_server() as server:
        pytestconfig.stash[_STORE] = server.kind
        yield server


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which S3 server the tests ran against: moto proves less."""
    if kind := config.stash.get(_STORE, None):
        terminalreporter.write_line(f"object store: {kind}")


@pytest.fixture(scope="session")
def bucket(object_store: S3Server) -> Iterator[str]:
    """A bucket in it. Processes find it by the environment, before Ray starts its workers."""
    import fsspec

    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("tessera")
        yield "s3://tessera"


@pytest.fixture
def faulty_store(
    bucket: str, object_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """The store of `bucket` behind a proxy that makes faults; `AWS_ENDPOINT_URL` is the proxy's."""
    with fault_proxy(object_store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        forget_clients()
        yield proxy
    forget_clients()


def forget_clients() -> None:
    """Have s3fs look at the environment again."""
    from pipeline.storage.s3 import PlainS3

    PlainS3.clear_instance_cache()


@pytest.fixture(scope="session")
def ray_cluster(bucket: str) -> Iterator[None]:
    """One Ray session for all tests that don't need to kill it."""
    from pipeline.distributed.session import ray_session

    with ray_session(store_bytes=512 << 20):
        yield


@pytest.fixture(scope="session")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Annotated synthetic scenes with two classes of things and one of stuff."""
    from pipeline.synthetic import write_annotated

    uri = str(tmp_path_factory.mktemp("annotated"))
    sizes = [(128, 128), (96, 160), (131, 101), (128, 144)] * 4
    write_annotated(uri, sizes, (["train"] * 3 + ["val"]) * 4, seed=1)
    return uri


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where MLflow keeps what `trained` tells it."""
    return (tmp_path_factory.mktemp("tracked") / "mlruns").as_uri()


@pytest.fixture(scope="session")
def trained(
    annotated: str, tracked: str, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A model bundle trained on `annotated`, just long enough to find most objects."""
    from pipeline.config import NetworkSettings, TrainSettings
    from pipeline.distributed.train import train_bundle

    output = str(tmp_path_factory.mktemp("models") / "trained")
    settings = TrainSettings(
        data=annotated,
        output=output,
        epochs=8,
        crop=96,
        min_steps=45,
        network=NetworkSettings(depth=2, width=8),
        notes="Trained on synthetic scenes.",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", tracked)
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it would rather have a database
        train_bundle(settings, lambda report: None)
    return output


@pytest.fixture(scope="session")
def first(trained: str, tmp_path_factory: pytest.TempPathFactory) -> "Scene":
    """Images of two sites, predicted once; see `scene`."""
    from tests.laws import Scene

    return Scene.predicted(tmp_path_factory.mktemp("first"), trained)


@pytest.fixture
def scene(first: "Scene", tmp_path: Path) -> "Iterator[Scene]":
    """The same, for one test to change."""
    with first.to_change(tmp_path) as mine:
        yield mine


@pytest.fixture
def collection(tmp_path: Path) -> str:
    """Images to predict, of several formats and sizes."""
    from pipeline.synthetic import write_annotated

    uri = str(tmp_path / "collection")
    sizes = [(96, 96), (77, 130), (128, 64), (1, 1), (33, 200), (90, 90), (96, 96)]
    write_annotated(uri, sizes, ["test"] * len(sizes), seed=50)
    return uri


def run_cli(*words: str, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
    """Run a job as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
