"""A store under load: what passes is outlasted, what does not is told soon."""

import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from pipeline import storage
from pipeline.errors import ForbiddenError, UnavailableError
from pipeline.images.collection import open_collection
from pipeline.storage import retrying
from pipeline.storage.door import open_filesystem
from tests.conftest import forget_clients
from tests.fault_proxy import FaultProxy, Faults
from tests.object_store import free_port


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.02)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(slow_down=0.3),
        Faults(reset=0.2),
        Faults(cut=0.2),
        Faults(slow_down=0.2, reset=0.05, cut=0.02, latency=0.005),
    ],
    ids=["503", "resets", "cut bodies", "all"],
)
def test_faults_that_pass_cost_nothing(
    bucket: str, faulty_store: FaultProxy, faults: Faults
) -> None:
    files = {f"{bucket}/faults/{n}.bin": bytes([n]) * 30_000 for n in range(30)}
    faulty_store.faults = faults
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.write_bytes, files, files.values()))
        read = list(pool.map(storage.read_bytes, files, [30_000] * 30))
    assert read == list(files.values())
    assert sorted(file.uri for file in storage.walk(f"{bucket}/faults")) == sorted(files)
    # Rare ones need not have struck.
    made = [name for name in ("slow_down", "reset", "cut") if getattr(faults, name) >= 0.1]
    assert all(faulty_store.injected[name] for name in made)


def test_a_folder_whose_removal_is_cut_off_is_removed(
    bucket: str, faulty_store: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"{bucket}/removed"
    for number in range(20):
        storage.write_bytes(f"{folder}/{number}", b"x")
    fs, _ = open_filesystem(folder)
    find, tries = fs.find, []

    def cut_off_once(path: str) -> list[str]:
        tries.append(path)
        if len(tries) == 1:
            raise ConnectionResetError
        return find(path)

    monkeypatch.setattr(fs, "find", cut_off_once)
    faulty_store.faults = Faults(slow_down=0.3, reset=0.1)
    storage.remove_folder(folder)
    assert len(tries) > 1
    assert storage.list_paths(folder) == []


def test_a_create_whose_answer_is_lost_knows_its_own_object(
    bucket: str, faulty_store: FaultProxy
) -> None:
    faulty_store.faults = Faults(lost_answer=0.5)
    for n in range(8):
        assert storage.create_bytes(f"{bucket}/lost/{n}", b"same")
        assert not storage.create_bytes(f"{bucket}/lost/{n}", b"same")
    assert faulty_store.injected["lost_answer"]


def test_a_store_that_is_away_is_told_and_found_again(
    bucket: str, faulty_store: FaultProxy
) -> None:
    storage.write_bytes(f"{bucket}/away", b"x")
    faulty_store.faults = Faults(slow_down=1)
    with pytest.raises(UnavailableError, match="SlowDown"):
        storage.read_bytes(f"{bucket}/away", 1)
    faulty_store.faults = Faults(refuse=True)
    forget_clients()
    with pytest.raises(UnavailableError):
        storage.read_bytes(f"{bucket}/away", 1)
    faulty_store.faults = Faults()
    assert storage.read_bytes(f"{bucket}/away", 1) == b"x"


def test_a_store_that_goes_away_is_no_damage_to_a_manifest(
    bucket: str, faulty_store: FaultProxy
) -> None:
    storage.write_bytes(f"{bucket}/list.csv", b"uri\na.png\n")
    collection = open_collection(f"{bucket}/list.csv")
    faulty_store.faults = Faults(slow_down=1)
    with pytest.raises(UnavailableError, match=r"list.csv: the store did not answer"):
        list(collection.batches())
    faulty_store.faults = Faults(slow_down=0.3, reset=0.1)
    assert [batch["uri"].to_pylist() for batch in collection.batches()] == [[f"{bucket}/a.png"]]


def test_a_store_that_is_not_there_is_told_in_bounded_time(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    forget_clients()
    start = time.monotonic()
    try:
        with pytest.raises(UnavailableError) as caught:
            storage.read_bytes(f"{bucket}/nowhere", 1)
    finally:
        monkeypatch.undo()
        forget_clients()
    assert time.monotonic() - start < 60
    assert "\n" not in str(caught.value)


def test_a_stalled_store_is_noticed(
    bucket: str, faulty_store: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"read_timeout": 0.2, "retries": {"total_max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": quick})
    monkeypatch.setattr(retrying, "TRIES", 2)
    faulty_store.faults = Faults(stall=True)
    start = time.monotonic()
    with pytest.raises(UnavailableError):
        storage.read_bytes(f"{bucket}/stalled", 1)
    assert time.monotonic() - start < 20


def test_a_store_is_outlasted_for_as_long_as_is_said() -> None:
    tries: list[int] = []
    told: list[UnavailableError] = []

    def comes_back() -> int:
        tries.append(1)
        if len(tries) < 4:
            raise UnavailableError("away")
        return len(tries)

    assert storage.outlasting(comes_back, 60, told.append) == 4
    assert [str(error) for error in told] == ["away"]

    def stays_away() -> None:
        time.sleep(0.05)
        raise UnavailableError("away")

    before = time.monotonic()
    with pytest.raises(UnavailableError):
        storage.outlasting(stays_away, 0.2)
    assert 0.2 <= time.monotonic() - before < 5

    def refuses() -> None:
        tries.append(1)
        raise ForbiddenError("no")

    tries.clear()
    with pytest.raises(ForbiddenError):
        storage.outlasting(refuses, 60)
    assert len(tries) == 1
