"""supervisord for one stack: restarts programs that end, stops them in reverse order, keeps bounded logs."""

import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Error, Fault, ServerProxy

import psutil
from supervisor.states import ProcessStates
from supervisor.xmlrpc import SupervisorTransport

from local import shelter, start
from local.problem import Problem
from local.process import PROGRAM_MARK, STACK_MARK, Program, is_alive, log_end

LONGEST_SOCKET_FOLDER = 70  # bytes: supervisord first binds <folder>/supervisor.sock.<pid>; the limit is 103

# User and password. Only the rights of the socket protect it, but without a user supervisord logs a critical line.
NAME = "quickbite"

HEAD = """\
[supervisord]
logfile={root}/logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile={root}/supervisord.pid
childlogdir={root}/logs
nocleanup=true
{user}
[unix_http_server]
file={socket}
chmod=0700
username={name}
password={name}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

# A program that keeps failing is started again without limit. Each wait is one second longer.
PROGRAM = """
[program:{name}]
command={command}
directory={folder}
environment={environment}
autostart=false
autorestart=true
startsecs=1
startretries=1000000
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
stdout_logfile={root}/logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
redirect_stderr=true
"""

GROUP = """
[group:{name}]
programs={programs}
priority={priority}
"""


class Supervisor:
    """The supervisord whose files are in `root`, for named groups of programs.

    The caller starts the groups in the given order. `shutdown` stops them in reverse order.
    """

    def __init__(self, root: Path, groups: Mapping[str, Sequence[Program]]) -> None:
        self.root = root
        self._socket = socket(root)
        self._folder = self._socket.parent
        self._file = root / "supervisord.conf"
        self._programs = {program.name: program for group in groups.values() for program in group}
        self._full_names = {
            program.name: f"{name}:{program.name}" for name, group in groups.items() for program in group
        }
        self.configuration = render(root, self._socket, groups)

    def log(self, name: str) -> Path:
        return logs(self.root) / f"{name}.log"

    def start(self) -> None:
        """Start supervisord, but none of its programs. Raises `Problem`."""
        logs(self.root).mkdir(parents=True, exist_ok=True)
        shelter.claim(self._folder)
        self._folder.mkdir(exist_ok=True)
        self._file.write_text(self.configuration)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._file)]
        # What supervisord has, all programs inherit. The passwords are in files, which `local/rotation.py` changes.
        inherited = {name: value for name, value in os.environ.items() if not name.endswith("ADMIN_PASSWORD")}
        marks = {STACK_MARK: str(self.root), PROGRAM_MARK: "supervisord"}
        done = subprocess.run(command, env={**inherited, **marks}, check=False, capture_output=True, text=True)
        deadline = time.monotonic() + 10
        while not self.is_running():
            if done.returncode or time.monotonic() > deadline:
                raise Problem(f"supervisord does not start: {done.stderr}{log_end(self.log('supervisord'))}")
            time.sleep(0.05)

    def is_running(self) -> bool:
        """True if supervisord answers on its socket."""
        try:
            with self._rpc() as rpc:
                rpc.getState()
        except (OSError, Error, http.client.HTTPException):
            return False
        return True

    def is_current(self) -> bool:
        """True if supervisord runs with today's configuration."""
        return self._file.read_text() == self.configuration

    def start_program(self, name: str) -> None:
        """Start one program, without waiting. A failing program that waits for its next start is started at once.

        The program takes its settings from the environment now, and again when supervisord restarts it.
        """
        self.stop_program(name)
        if taken := self._programs[name].settings:
            file = settings_file(self.root, name)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({variable: os.environ.get(variable) for variable in taken}))
        with self._rpc() as rpc:
            rpc.startProcess(self._full_names[name], False)

    def stop_program(self, name: str) -> None:
        """Stop one program and wait until it has ended. supervisord kills it after its `stop_seconds`."""
        with self._rpc() as rpc, suppress(Fault):  # It may not be running.
            rpc.stopProcess(self._full_names[name])

    def processes(self) -> dict[str, dict[str, Any]]:
        """Every program by name, as supervisord describes it: `statename`, `state`, `pid`, `start`."""
        with self._rpc() as rpc:
            return {info["name"]: info for info in rpc.getAllProcessInfo()}

    def is_up(self, name: str) -> bool:
        """True if a program runs, or started less than a second ago. An older stack may not know the program."""
        return self.processes().get(name, {}).get("state") in (ProcessStates.STARTING, ProcessStates.RUNNING)

    def shutdown(self) -> None:
        """Stop every program, the last group first, then supervisord. Waits at most 90 s for its end."""
        with self._rpc() as rpc:
            process = psutil.Process(rpc.getPID())
            rpc.shutdown()
        deadline = time.monotonic() + 90
        while is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.05)

    def remove(self) -> None:
        """Delete all files of supervisord, also a socket folder outside `root`."""
        shelter.remove(self._folder)
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        with closing(SupervisorTransport(NAME, NAME, f"unix://{self._socket}")) as transport:
            yield ServerProxy("http://supervisor", transport=transport).supervisor


def socket(root: Path) -> Path:
    """The socket of the supervisord whose files are in `root`. Only the user who started it may use the socket."""
    return shelter.short(root, LONGEST_SOCKET_FOLDER) / "supervisor.sock"


def logs(root: Path) -> Path:
    """The folder with the logs of all programs."""
    return root / "logs"


def settings_file(root: Path, name: str) -> Path:
    """The file with the settings that a program took when it was started."""
    return root / "settings" / f"{name}.json"


def render(root: Path, socket: Path, groups: Mapping[str, Sequence[Program]]) -> str:
    user = "user=root\n" if os.geteuid() == 0 else ""
    parts = [HEAD.format(root=_escaped(root), socket=_escaped(socket), name=NAME, user=user)]
    for priority, (name, group) in enumerate(groups.items()):
        programs = ",".join(program.name for program in group)
        parts.append(GROUP.format(name=name, programs=programs, priority=priority))
        parts += [_render_program(root, program) for program in group]
    return "".join(parts)


def _render_program(root: Path, program: Program) -> str:
    environment = {**program.environment, PROGRAM_MARK: program.name}
    begin = [sys.executable, "-IS", start.__file__, str(settings_file(root, program.name))] if program.settings else []
    return PROGRAM.format(
        root=_escaped(root),
        name=program.name,
        command=_escaped(shlex.join([*begin, *program.command])),
        folder=_escaped(program.folder),
        environment=_escaped(",".join(f'{name}="{value}"' for name, value in environment.items())),
        stop_signal=program.stop_signal.name.removeprefix("SIG"),
        stop_seconds=program.stop_seconds,
    )


def _escaped(value: str | Path) -> str:
    return str(value).replace("%", "%%")
