"""One run at a time writes a dataset, whatever happens to the one that did."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import LeaseError, LeaseLostError, StorageError
from pipeline.tables.holder import this_process
from pipeline.tables.lease import Claim, Lease, check_held, hold_lease
from tests.conftest import ROOT

HOLDS = """
import sys, time
from pipeline.tables.lease import hold_lease
with hold_lease(sys.argv[1], "predict r1", ttl=float(sys.argv[2]), renew=float(sys.argv[3])) as it:
    print(it.generation, flush=True)
    time.sleep(float(sys.argv[4]))
"""

RACES = """
import sys
from pipeline.errors import LeaseError
from pipeline.tables.lease import hold_lease
print("ready", flush=True)
sys.stdin.readline()
try:
    with hold_lease(sys.argv[1], "race", ttl=20, renew=0.2) as it:
        print("held", it.generation, flush=True)
        sys.stdin.readline()
except LeaseError:
    print("refused", flush=True)
"""

NOBODY = 1 << 30
"""A process id higher than Linux gives."""


@pytest.fixture(params=["local", "s3"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('bucket')}/lease/{tmp_path.name}"


def start_holder(
    dataset: str, ttl: float, renew: float = 0.2, seconds: float = 60
) -> "subprocess.Popen[str]":
    """Another process that holds the lease; it does when this returns."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, dataset, str(ttl), str(renew), str(seconds)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline().strip().isdecimal()
    return holder


def end(holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    if holder.stdout:
        holder.stdout.close()


def test_a_released_lease_is_taken_at_once(dataset: str) -> None:
    start = time.monotonic()
    for generation in (1, 2, 3):
        with hold_lease(dataset, "test", ttl=60) as lease:
            assert lease.generation == generation
            lease.check()
    assert time.monotonic() - start < 10
    assert storage.list_names(f"{dataset}/_lease") == ["00000003.json"]


def test_of_many_that_race_one_holds(dataset: str) -> None:
    with hold_lease(dataset, "earlier"):
        pass

    def race(number: int) -> int:
        try:
            with hold_lease(dataset, f"racer {number}", ttl=5, renew=0.2) as lease:
                time.sleep(1.5)
                lease.check()
                return lease.generation
        except LeaseError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        generations = list(pool.map(race, range(8)))
    assert sorted(generations) == [0] * 7 + [2]


def test_of_many_processes_that_start_at_once_one_holds(dataset: str) -> None:
    command = [sys.executable, "-c", RACES, dataset]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True)
        for _ in range(8)
    ]  # fmt: skip
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        told = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
        assert sorted(told) == ["held 1"] + ["refused"] * 7
        for racer in racers:  # the holder holds until all the others have been told
            assert racer.stdin is not None
            racer.stdin.close()
            racer.wait(30)
    finally:
        for racer in racers:
            end(racer)


def write_claim(dataset: str, *, ttl: float = 60, **holder: object) -> None:
    """The file of generation 1, as another run would have left it."""
    changed = replace(this_process(), **holder)  # type: ignore[arg-type]
    claim = Claim(changed, "predict elsewhere", "2026-10-01 12:00 UTC", ttl, "token")
    assert storage.create_bytes(f"{dataset}/_lease/00000001.json", claim.to_bytes())


@pytest.mark.parametrize(
    "holder",
    [
        {"host": "elsewhere"},
        {"machine": "another-boot pid:[4026531836]"},
        {"machine": ""},
    ],
    ids=["host", "process namespace", "unknown"],
)
def test_a_holder_elsewhere_is_given_its_time(dataset: str, holder: dict[str, str]) -> None:
    # Its process id is that of nobody here, which says nothing about a process elsewhere.
    write_claim(dataset, ttl=1.5, pid=NOBODY, **holder)
    start = time.monotonic()
    with hold_lease(dataset, "next", ttl=1.5) as lease:
        assert lease.generation == 2
    assert 1.5 <= time.monotonic() - start < 10


@pytest.mark.parametrize(
    "holder",
    [{"pid": NOBODY}, {"started": "1"}],
    ids=["no such process", "another process of that number"],
)
def test_a_holder_here_that_ended_is_known_by_its_process(
    dataset: str, holder: dict[str, object]
) -> None:
    write_claim(dataset, **holder)
    start = time.monotonic()
    with hold_lease(dataset, "next", ttl=60) as lease:
        assert lease.generation == 2
    assert time.monotonic() - start < 10


def test_a_holder_that_is_hidden_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    holder = replace(this_process(), started="5")
    monkeypatch.setattr("pipeline.tables.holder._started", lambda pid: "")

    def of_another_user(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", of_another_user)
    assert not holder.is_dead()


def test_the_time_to_live_counts_from_before_the_file_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = storage.create_bytes

    def slow(uri: str, data: bytes) -> bool:
        made = real(uri, data)
        time.sleep(1)  # the answer of a slow store, or of a second try
        return made

    monkeypatch.setattr(storage, "create_bytes", slow)
    with hold_lease(str(tmp_path), "test", ttl=60, renew=1) as lease:
        assert time.monotonic() - lease._renewed >= 1 or lease._claim.counter


def test_a_killed_holder_on_this_host_is_replaced_at_once(dataset: str) -> None:
    holder = start_holder(dataset, ttl=60)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    start = time.monotonic()
    with hold_lease(dataset, "next", ttl=60) as lease:
        assert lease.generation == 2
    assert time.monotonic() - start < 5
    end(holder)


def test_a_live_holder_refuses_in_one_line(dataset: str) -> None:
    holder = start_holder(dataset, ttl=10)
    said: list[str] = []
    try:
        with (
            pytest.raises(LeaseError) as caught,
            hold_lease(dataset, "next", ttl=10, on_wait=said.append),
        ):
            pytest.fail("two runs hold the lease")
    finally:
        end(holder)
    message = str(caught.value)
    assert "\n" not in message
    for part in (dataset, "predict r1", f"process {holder.pid}", os.uname().nodename, "UTC"):
        assert part in message
    assert len(said) == 1


def test_whoever_waits_gets_it_when_the_holder_ends(dataset: str) -> None:
    holder = start_holder(dataset, ttl=10, seconds=1.5)
    said: list[str] = []
    with hold_lease(dataset, "next", ttl=10, wait=30, on_wait=said.append) as lease:
        assert lease.generation == 2
    assert len(said) == 1
    end(holder)


def test_a_frozen_holder_is_replaced_and_notices(dataset: str) -> None:
    holder = start_holder(dataset, ttl=1.5)
    try:
        holder.send_signal(signal.SIGSTOP)
        with hold_lease(dataset, "next", ttl=1.5, renew=0.3) as lease:
            assert lease.generation == 2
            check_held(lease.hold)
            with pytest.raises(LeaseLostError):
                check_held(replace(lease.hold, generation=1))
            holder.send_signal(signal.SIGCONT)
            time.sleep(1)
            lease.check()  # what the woken one writes changes nothing
    finally:
        end(holder)


def test_a_stolen_lease_is_noticed_by_itself(dataset: str) -> None:
    with hold_lease(dataset, "test", renew=0.2) as lease:
        assert storage.create_bytes(f"{dataset}/_lease/00000002.json", b"{}")
        assert lease.lost.wait(5)
        with pytest.raises(LeaseLostError, match="taken over"):
            lease.check()
        with pytest.raises(LeaseLostError, match="taken over"):
            check_held(lease.hold)


def test_a_dataset_that_was_made_anew_is_not_that_of_before(dataset: str) -> None:
    """Generations begin anew with it; a task of before that comes late may not commit."""
    with hold_lease(dataset, "before") as before:
        check_held(before.hold)
        storage.remove_folder(dataset)
        with pytest.raises(LeaseLostError):
            check_held(before.hold)
        with hold_lease(dataset, "after") as after:
            assert after.generation == before.generation
            check_held(after.hold)
            with pytest.raises(LeaseLostError):
                check_held(before.hold)
            before.release()
            after.check()


def test_a_lease_that_cannot_be_renewed_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold_lease(str(tmp_path), "test", ttl=1, renew=0.2) as lease:
        assert not lease.lost.wait(1.5)
        monkeypatch.setattr(Lease, "_write", lambda *_: time.sleep(5))  # a stalled store
        assert lease.lost.wait(3)
        with pytest.raises(LeaseLostError, match="could not be renewed for 1 s; this run stops"):
            lease.check()


def test_a_lease_that_a_full_disk_loses_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise StorageError("no space left")

    with hold_lease(str(tmp_path), "test", ttl=1, renew=0.2) as lease:
        monkeypatch.setattr(Lease, "_write", fail)
        assert lease.lost.wait(5)
        with pytest.raises(LeaseLostError, match=r"renewed for 1 s \(no space left\)"):
            lease.check()


def test_a_lasting_lease_is_renewed_when_the_store_is_back_and_taken_where_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training goes on computing meanwhile; nobody else may come between afterwards."""

    def fail(*given: object) -> None:
        raise StorageError("the store is away")

    with hold_lease(str(tmp_path), "a training", ttl=1, renew=0.2, lasting=True) as lease:
        with monkeypatch.context() as away:
            away.setattr(Lease, "_write", fail)
            assert not lease.lost.wait(2)
        with (
            pytest.raises(LeaseError, match="a training by"),
            hold_lease(str(tmp_path), "b", ttl=1),
        ):
            pass
        monkeypatch.setattr(Lease, "_write", fail)
        with hold_lease(str(tmp_path), "another", ttl=1):
            assert lease.lost.wait(5)
