"""The programs of the stack: how they start and stop, and how their processes are found again.

Each process has a mark in its environment. A process id can be reused, and any program can use a port. But child
processes inherit the mark, and it is still there after the supervisor has ended.
"""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from local import ports
from local.problem import Problem

STACK_MARK = "QUICKBITE_STACK"
PROGRAM_MARK = "QUICKBITE_PROGRAM"


@dataclass(frozen=True)
class Program:
    """A command, and the signal and the time to stop it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path("/")
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 10
    settings: Collection[str] = ()
    """Variables that supervisord's program takes from the environment of the command that starts it."""

    def marked(self, stack: Path) -> dict[str, str]:
        """The environment with the marks by which `survivors` finds the process."""
        return {**self.environment, STACK_MARK: str(stack), PROGRAM_MARK: self.name}


class Engine(Protocol):
    """One server: its files, its program, its ports, and a check whether it is ready."""

    @property
    def name(self) -> str:
        """The name for people and logs."""

    @property
    def host(self) -> str:
        """The address that it listens on."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All ports that it listens on, the main port first."""

    def prepare(self) -> None:
        """Create its files. A second call changes nothing that matters."""

    def program(self) -> Program:
        """The command that runs it, and how to stop it."""

    def is_ready(self) -> bool:
        """True if it can serve requests now."""


class Server:
    """One engine without a supervisor, for tests that kill it and start it again.

    >>> broker = Server(Kafka(root, port), root)
    >>> broker.start(); broker.kill(); broker.start(); broker.stop()
    """

    def __init__(self, engine: Engine, root: Path) -> None:
        self._engine, self._root = engine, root.resolve()
        self._child: subprocess.Popen[bytes] | None = None
        self.log = self._root / f"{engine.name}.log"

    @property
    def pid(self) -> int:
        """The process id of the last start. Raises `Problem` if it was never started."""
        if self._child is None:
            raise Problem(f"{self._engine.name} was not started")
        return self._child.pid

    def start(self, timeout_seconds: float = 60) -> None:
        """Start the engine and wait until it is ready.

        Raises `Problem` if a port is taken. Raises `Problem` with the end of the log if the process ends or is not
        ready in time.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        end_survivors(self._root, [self._engine.program()])
        if taken := ports.complaints(self._engine.name, self._engine.host, self._engine.ports):
            raise Problem("\n".join(taken))
        self._engine.prepare()
        program = self._engine.program()
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                program.command,
                cwd=program.folder,
                env={**os.environ, **program.marked(self._root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child = self._child
        try:
            wait_ready(self._engine, lambda: child.poll() is None, self.log, timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Send the stop signal and wait. After `stop_seconds`, kill it. Does nothing if it has already ended."""
        if self._child is not None and self._child.poll() is None:
            program = self._engine.program()
            self._child.send_signal(program.stop_signal)
            try:
                self._child.wait(program.stop_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait until the process has ended."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()


def identity(user: str | None) -> dict[str, Any]:
    """Arguments for `subprocess` that switch from root to `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def wait_ready(engine: Engine, is_alive: Callable[[], bool], log: Path, timeout_seconds: float) -> None:
    """Wait until `engine` is ready. Raises `Problem` with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while not engine.is_ready():
        if not is_alive():
            raise Problem(f"{engine.name} stopped while it was starting{log_end(log)}")
        if time.monotonic() > deadline:
            raise Problem(f"{engine.name} is not ready after {timeout_seconds:.0f} s{log_end(log)}")
        time.sleep(0.05)


def log_end(log: Path, lines: int = 15) -> str:
    """The last lines of a log, formatted to follow a message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "".join(f"\n    {line}" for line in text.splitlines()[-lines:]) + f"\n  The whole log: {log}"


def end_survivors(stack: Path, programs: Iterable[Program]) -> None:
    """Stop processes that an earlier run left behind, program by program in the given order, by their stop signals."""
    found = survivors(stack)
    for program in programs:
        _end([process for name, process in found if name == program.name], program.stop_signal, program.stop_seconds)
    _end([process for _, process in found], signal.SIGTERM, 5)


def survivors(stack: Path) -> list[tuple[str, psutil.Process]]:
    """Find every process that has the mark of this stack. Returns pairs of program name and process."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):  # The process belongs to another user, or has ended.
            continue
        if environment.get(STACK_MARK) == str(stack.resolve()) and process.pid != os.getpid():
            found.append((environment.get(PROGRAM_MARK, ""), process))
    return found


def _end(processes: Sequence[psutil.Process], stop_signal: signal.Signals, seconds: float) -> None:
    for sent in (stop_signal, signal.SIGKILL):
        for process in filter(is_alive, processes):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(sent)
        deadline = time.monotonic() + seconds
        while any(map(is_alive, processes)) and time.monotonic() < deadline:
            time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """True if the process runs. A zombie counts as dead: if process 1 reaps no children, it never goes away."""
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
