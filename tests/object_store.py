"""A real S3 server for tests: Ceph's radosgw with one node in memory; moto where Ceph is missing.

Ceph checks signatures, honours conditional writes and answers like a store in use. moto accepts
any credentials, so what depends on them is skipped there (`S3Server.checks_credentials`).
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

CEPH_PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw",
                 "radosgw-admin")  # fmt: skip
_START_SECONDS = 60
_PREFIX = "tessera-ceph-"
_LOCK = "lock"


@dataclass(frozen=True)
class S3Server:
    """Where a server listens, and who may use it."""

    kind: str
    """For people: which server, and why."""
    port: int
    checks_credentials: bool
    access_key: str = "tessera-tests"
    secret_key: str = "tests-secret-of-no-worth"
    other_access_key: str = "tessera-others"
    """Of a second user, to whom the first one's buckets are closed."""
    other_secret_key: str = "others-secret-of-no-worth"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Ceph where it is installed and starts, moto otherwise."""
    with contextlib.ExitStack() as stack:
        missing = [program for program in CEPH_PROGRAMS if not shutil.which(program)]
        if not missing:
            try:
                yield stack.enter_context(_ceph())
                return
            except CephError as error:
                reason = f"Ceph did not start: {error}"
        else:
            reason = f"{missing[0]} is not installed"
        server = stack.enter_context(_moto())
        yield replace(server, kind=f"moto, which accepts any credentials ({reason})")


class CephError(Exception):
    """Ceph could not be started."""


@contextlib.contextmanager
def _moto() -> Iterator[S3Server]:
    port = free_port()
    with _running(Path(os.devnull), sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p",
                  str(port)) as server:  # fmt: skip
        if not _listens(port, [server]):
            raise RuntimeError("moto's server did not start")
        yield S3Server("moto", port, checks_credentials=False)


@contextlib.contextmanager
def _ceph() -> Iterator[S3Server]:
    """A monitor, an object store daemon in memory and a gateway, in that order."""
    with _own_folder() as folder, contextlib.ExitStack() as stack:
        yield _start_ceph(folder, stack)


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for a server's data, gone at the end, or at the next start if the tests are killed.

    A file in it is locked for as long as the tests live: whoever gets that lock knows that they
    don't. It has its name only once it is locked, so a folder just made is left alone.
    """
    _remove_abandoned()
    # Short, because the paths of Unix sockets are limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (folder / f".{_LOCK}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / f".{_LOCK}").rename(folder / _LOCK)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned() -> None:
    """Remove what tests that were killed have left (40 MB each)."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        # Of another user, or held by tests that run.
        with contextlib.suppress(OSError), path.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)


def _start_ceph(folder: Path, stack: contextlib.ExitStack) -> S3Server:
    version = subprocess.run(["radosgw", "--version"], capture_output=True, text=True).stdout
    number = [*version.split(), "", "", "?"][2]
    server = S3Server(f"Ceph radosgw {number}", free_port(), checks_credentials=True)
    conf = _configure(folder, server.port, free_port())

    def start(program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [program, "-c", str(conf), *arguments, "-f"]
        return stack.enter_context(_running(folder / f"log/{program}.out", *command))

    _make_keys(folder)
    _run("ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", folder / "monmap",
         "--keyring", folder / "keyring")  # fmt: skip
    daemons = [start("ceph-mon", "-i", "a")]
    osd = str(uuid.uuid4())
    _run("ceph", "-c", conf, "--connect-timeout", "30", "osd", "create", osd, "0")
    _run("ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", osd)
    daemons.append(start("ceph-osd", "-i", "0"))
    for user, access, secret in (
        ("tests", server.access_key, server.secret_key),
        ("others", server.other_access_key, server.other_secret_key),
    ):
        _run("radosgw-admin", "-c", conf, "user", "create", f"--uid={user}",
             f"--display-name={user}", f"--access-key={access}", f"--secret={secret}")  # fmt: skip
    daemons.append(start("radosgw", "-n", "client.admin"))
    if not _listens(server.port, daemons):
        raise CephError("the gateway does not listen")
    return server


def _configure(folder: Path, port: int, monitor_port: int) -> Path:
    for name in ("mon", "osd", "run", "log"):
        (folder / name).mkdir()
    fsid = uuid.uuid4()
    (folder / "ceph.conf").write_text(f"""
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{monitor_port}/0
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind msgr1 = false
keyring = {folder}/keyring
run dir = {folder}/run
crash dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {2 << 30}
osd memory target = {896 << 20}
osd class load list = *
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
mon max pg per osd = 2000
mon osd initial require min compat client = luminous
auth allow insecure global id reclaim = false
paxos propose interval = 0.05
paxos min wait = 0.01
[mon.a]
mon addr = 127.0.0.1:{monitor_port}
[client]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw enable usage log = false
""")
    address = f"[v2:127.0.0.1:{monitor_port}]"
    _run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, folder / "monmap")
    return folder / "ceph.conf"


def _make_keys(folder: Path) -> None:
    everything = [word for part in ("mon", "osd") for word in ("--cap", part, "allow *")]
    daemon = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"]
    for flags, name, capabilities in (
        (["-C"], "mon.", everything[:3]),
        ([], "client.admin", everything),
        ([], "osd.0", daemon),
    ):
        _run("ceph-authtool", *flags, folder / "keyring", "--gen-key", "-n", name, *capabilities)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_START_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CephError(f"{words[0]} did not end") from error
    if done.returncode:
        raise CephError(f"{words[0]}: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def _running(log: Path, *command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours, ended by its own id; by the kernel if the tests are killed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=end_with_parent
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_with_parent() -> None:
    """Have the kernel end a process when its parent ends, however that is."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int, processes: "list[subprocess.Popen[bytes]]") -> bool:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and all(process.poll() is None for process in processes):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.05)
    return False
