"""What a program of the stack is, and how its processes are found again: by a mark in their environment.

A process id is reused and a port is anybody's; the mark is inherited and survives the supervisor.
"""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """A command, as whom it runs and how it wants to be stopped."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path("/")
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: int = 10

    def marked(self, stack: Path) -> dict[str, str]:
        """Its environment, by which `survivors` knows it again."""
        return {**self.environment, STACK_MARK: str(stack), PROGRAM_MARK: self.name}


class Engine(Protocol):
    """Something that can be prepared on disk, run as one program on one port, and asked whether it is ready."""

    @property
    def name(self) -> str:
        """What people and logs call it."""

    @property
    def host(self) -> str:
        """The address it listens on."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it listens on, its own first."""

    def prepare(self) -> None:
        """Make its files; done again, it changes nothing that matters."""

    def program(self) -> Program:
        """How it runs."""

    def is_ready(self) -> bool:
        """Whether it serves now."""


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
        """The process id of its last start."""
        if self._child is None:
            raise Problem(f"{self._engine.name} was not started")
        return self._child.pid

    def start(self, timeout_seconds: float = 60) -> None:
        """Return when it answers; raises `Problem` when its port is taken or it dies, with the end of its log."""
        self._root.mkdir(parents=True, exist_ok=True)
        end_survivors(self._root, [self._engine.program()])
        ports.refuse_taken(self._engine.name, self._engine.host, self._engine.ports)
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
                **identity(program.user),
            )
        child = self._child
        try:
            wait_ready(self._engine, lambda: child.poll() is None, self.log, timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop it as it wants to be stopped; does nothing when it is dead."""
        if self._child is not None and self._child.poll() is None:
            program = self._engine.program()
            self._child.send_signal(program.stop_signal)
            try:
                self._child.wait(program.stop_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """Send SIGKILL, and return when it is dead."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()


def identity(user: str | None) -> dict[str, Any]:
    """Arguments that make `subprocess` drop root for `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def wait_ready(engine: Engine, is_alive: Callable[[], bool], log: Path, timeout_seconds: float) -> None:
    """Return when `engine` answers; raises `Problem` with the end of its log when it died or took too long."""
    deadline = time.monotonic() + timeout_seconds
    while not engine.is_ready():
        if not is_alive():
            raise Problem(f"{engine.name} stopped while it was starting{log_end(log)}")
        if time.monotonic() > deadline:
            raise Problem(f"{engine.name} is not ready after {timeout_seconds:.0f} s{log_end(log)}")
        time.sleep(0.05)


def log_end(log: Path, lines: int = 15) -> str:
    """Quote the last lines of a log, to be put behind a message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "".join(f"\n    {line}" for line in text.splitlines()[-lines:]) + f"\n  The whole log: {log}"


def end_survivors(stack: Path, programs: Iterable[Program]) -> None:
    """End what an earlier run left behind, program by program in the order given, each by its own signal."""
    found = survivors(stack)
    for program in programs:
        _end([process for name, process in found if name == program.name], program.stop_signal, program.stop_seconds)
    _end([process for _, process in found], signal.SIGTERM, 5)


def survivors(stack: Path) -> list[tuple[str, psutil.Process]]:
    """Find every process that carries the mark of this stack, with its program's name."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):  # Another user's, or gone meanwhile.
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
    """Count a zombie as dead: where process 1 reaps nobody, it stays in the table for ever."""
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
