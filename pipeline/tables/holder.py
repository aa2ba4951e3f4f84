"""Who holds a lease: a process, named so that another on the same machine can tell it is dead."""

import getpass
import os
import socket
from dataclasses import dataclass

from pipeline import storage
from pipeline.errors import MissingError, StorageError


@dataclass(frozen=True)
class Holder:
    """A process, and who runs it."""

    user: str
    host: str
    machine: str
    """Boot and process namespace, where process ids mean the same; empty where it has no /proc."""
    pid: int
    started: str
    """Clock ticks from boot to the start of the process: a process id may be used again."""

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid})"

    def is_dead(self) -> bool:
        """Whether the process is certain to have ended: it ran on this machine and is not there."""
        if not self.machine or (self.host, self.machine) != (socket.gethostname(), _machine()):
            return False
        try:
            started = _started(self.pid)
        except StorageError:
            return False
        # /proc may hide the processes of other users (hidepid); signal 0 still finds them.
        return started != self.started and (bool(started) or not _is_anothers(self.pid))


def this_process() -> Holder:
    """The process that asks."""
    pid = os.getpid()
    machine = _machine()
    return Holder(_user(), socket.gethostname(), machine, pid, _started(pid) if machine else "")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number and no name
        return f"user {os.getuid()}"


def _machine() -> str:
    try:
        boot = storage.read_bytes("/proc/sys/kernel/random/boot_id").decode().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except (StorageError, OSError):
        return ""


def _is_anothers(pid: int) -> bool:
    """Whether the process of this id is there and belongs to another user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _started(pid: int) -> str:
    """When a process started, empty when there is none or it is hidden. A zombie has ended."""
    try:
        text = storage.read_bytes(f"/proc/{pid}/stat").decode(errors="replace")
    except MissingError:
        return ""
    # The second field is the program's name in parentheses, which may itself hold any character.
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
