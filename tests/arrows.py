"""Who connects to whom in a running stack, seen in /proc: to compare with the NetworkPolicies of the cluster.

A connection that is shorter than the time between two samples may be missed. Those of the services are kept open: they
have pools, consumers and keep-alive. Where there is no /proc, nothing is seen.
"""

import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from documents.kubernetes import network
from local.stack import Stack
from tests.sampling import sampled

EVERY_SECONDS = 0.5
_ESTABLISHED = "01"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")

_NOBODY: Mapping[int, str] = {}
_TO_ITSELF = {("kafka", "kafka")}
"""Broker and controller; in a cluster, Strimzi makes the policy."""

Seen = set[tuple[str, str]]


class Recorder:
    """The pairs (program, program) that have or had a connection.

    `pids` says which programs run, and `users` which program has a user of its own: its sockets are known by the user.
    """

    def __init__(
        self, ports: Mapping[int, str], pids: Callable[[], Mapping[int, str]], users: Mapping[int, str] = _NOBODY
    ) -> None:
        self.seen: Seen = set()
        self._ports, self._pids, self._users = ports, pids, users

    def sample(self) -> None:
        targets = {}
        for port, inode, user in _established():
            if (name := self._ports.get(port)) is not None:
                targets[inode] = name
                self.seen |= {(self._users[user], name)} if user in self._users else set()
        for pid, source in self._pids().items():
            self.seen |= {(source, targets[inode]) for inode in _sockets(pid) if inode in targets} - _TO_ITSELF


def _established() -> Iterator[tuple[int, str, int]]:
    """The remote port, the inode and the user of every connection of this machine."""
    for table in _TABLES:
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split(maxsplit=10)
                if fields[3] == _ESTABLISHED:
                    yield int(fields[2].rpartition(":")[2], 16), fields[9], int(fields[7])


def _sockets(pid: int) -> Iterator[str]:
    """The inodes of the sockets of a process."""
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if (target := str(link.readlink())).startswith("socket:["):
                    yield target[8:-1]


@contextmanager
def recorded(stack: Stack) -> Iterator[Recorder]:
    """Record the connections of the stack's programs until the end of the block."""
    ports = {port: name.removesuffix("_tls") for name, port in asdict(stack.ports).items()}
    users = {pwd.getpwnam("daemon").pw_uid: "gateway"} if os.geteuid() == 0 else {}
    recorder = Recorder(ports, lambda: _programs(stack), users)
    with sampled(recorder.sample, EVERY_SECONDS, "arrows"):
        yield recorder


def _programs(stack: Stack) -> dict[int, str]:
    """The names of the stack's programs by pid. nginx connects in its workers, all others in their main process."""
    found: dict[int, str] = {}
    with suppress(OSError, ValueError):
        supervisord = int((stack.root / "supervisord.pid").read_text())
        for pid in _children(supervisord):
            if name := _name(pid):
                found |= dict.fromkeys(_children(pid) if name == "gateway" else [pid], name)
    return found


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    """From the mark in its environment, or "" if the process ends just now: then it has sockets, but no environment.

    nginx writes its title over the environment. Started by root, it has a user of its own. Not even root can list its
    files without a further capability.
    """
    environment = b""
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text() == "nginx\n":
            return "gateway"
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    for entry in environment.split(b"\0"):
        if entry.startswith(b"QUICKBITE_PROGRAM="):
            return entry.partition(b"=")[2].decode()
    return "unknown" if environment else ""


def allowed() -> Seen:
    """The arrows of the NetworkPolicies, between whole services. Here one process runs all parts of a service."""
    found = {(_service(one.source), _service(one.target)) for one in network.arrows()}
    of_cluster = {(source, target) for source, target in found if source in {*network.OUTSIDE, "migrate"}}
    return found - of_cluster | ONLY_HERE


ONLY_HERE = {("gateway", "console")}
"""In a cluster the console is only inside."""


def _service(group: str) -> str:
    return group.partition("-")[0]
