"""One supervised stack: its programs, the order in which they start, and its data, which only `reset` deletes."""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from contracts.access import ADMIN
from local import nginx, ports, services, supervisor
from local.console import Console, Viewers, places
from local.files import locked
from local.kafka import Kafka
from local.postgres import Postgres
from local.problem import Problem
from local.process import Engine, Program, end_survivors, log_end, wait_ready
from local.secrets import Secrets
from local.supervisor import Supervisor
from shared.delivery.kafka import Brokers

logger = logging.getLogger(__name__)

HOME = services.PROJECT / ".local"
READY_SECONDS = 60
JOB_SECONDS = 120
PORTS_FILE = "ports.json"
NO_LIMITS = dict.fromkeys(
    ("REQUESTS_PER_SECOND", "LOGINS_PER_SECOND", "CONSOLE_LOGINS_PER_MINUTE", "CONNECTIONS"), "60000"
)
"""For tests and benchmarks, because all their requests come from one address."""


@dataclass(frozen=True)
class Ports:
    """The ports of all programs."""

    orders: int = 8080
    inventory: int = 8081
    payments: int = 8082
    auth: int = 8083
    users: int = 8084
    products: int = 8085
    console: int = 8086
    gateway: int = 80
    postgres: int = 5433
    kafka: int = 9092

    @classmethod
    def free(cls) -> "Ports":
        """Choose free ports, for a stack that runs beside others."""
        count = len(fields(cls))
        first = ports.free_block(count + 1)  # Kafka is last: its controller uses the next port.
        return cls(*range(first, first + count))

    @property
    def services(self) -> dict[str, int]:
        """The ports of QuickBite's own services, by name."""
        return {name: port for name, port in asdict(self).items() if name in nginx.SERVICES}


class Stack:
    """A stack called `name`, with all its files below `root`.

    `postgres_settings` are added to the durable defaults. `limits` are the gateway's limits per address. Each step of
    the stack is logged at level INFO. The console runs only if there are `viewers`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        where: Ports,
        *,
        kafka_heap: str = "256m",
        postgres_settings: Mapping[str, str] | None = None,
        limits: Mapping[str, str] | None = None,
        admin_password: str = "password",
        viewers: Viewers | None = None,
    ) -> None:
        self.name, self.root, self.ports = name, root.resolve(), where
        self._ports_file = self.root / PORTS_FILE
        self.postgres = Postgres(self.root / "postgres", where.postgres, settings=postgres_settings)
        self._secrets = Secrets(self.root / "secrets.json")
        passwords = services.kafka_passwords(self._secrets)
        self.kafka = Kafka(
            self.root / "kafka",
            where.kafka,
            cache=HOME / "cache",
            heap=kafka_heap,
            passwords=passwords,
        )
        self._services = services.services(
            where.services,
            postgres=where.postgres,
            kafka=self.brokers,
            auth=where.auth,
            console=where.console if viewers else None,
            admin_password=admin_password,
        )
        upstreams = {f"{name.upper()}_UPSTREAM": f"{ports.LOOPBACK}:{asdict(where)[name]}" for name in nginx.UPSTREAMS}
        self.gateway = nginx.Gateway(self.root / "gateway", where.gateway, upstreams | dict(limits or NO_LIMITS))
        groups: dict[str, tuple[Engine, ...]] = {
            "data": (self.postgres, self.kafka),
            "services": self._services,
            "viewers": (*viewers.others, self._console(viewers.settings, admin_password)) if viewers else (),
            "gateway": (self.gateway,),
        }
        self._groups = {name: group for name, group in groups.items() if group}
        self._jobs = services.jobs(where.postgres, self.brokers(ADMIN))
        self._engines = {engine.name: engine for group in self._groups.values() for engine in group}
        programs = {name: [engine.program() for engine in group] for name, group in self._groups.items()}
        self.supervisor = Supervisor(self.root, programs)

    def brokers(self, user: str) -> Brokers:
        """Kafka, for this user."""
        address = f"{ports.LOOPBACK}:{self.ports.kafka}"
        return Brokers(address, "SASL_PLAINTEXT", username=user, password=self._secrets(services.kafka_secret(user)))

    @property
    def names(self) -> list[str]:
        """All programs and jobs, in the order in which they start."""
        jobs = [job.name for job in self._jobs]
        programs = [engine.name for group in self._groups.values() for engine in group]
        before = len(self._groups["data"])
        return [*programs[:before], *jobs, *programs[before:]]

    def up(self, only: Collection[str] = ()) -> list[str]:
        """Start the programs of `only` that are not running (default: all). Returns their names when they are ready.

        Raises `Problem` if a port is taken; then nothing was started. Raises `Problem` if a program does not become
        ready; then everything that this call started is stopped again.
        """
        wanted = set(only or self.names)
        if unknown := wanted.difference(self.names):
            raise Problem(f"Unknown: {', '.join(sorted(unknown))}. This stack has: {', '.join(self.names)}")
        with locked(self.root / "lock"):
            was_running = self.supervisor.is_running()
            missing = [engine for engine in self._engines.values() if engine.name in wanted - self._up()]
            self._open(missing, was_running=was_running)
            try:
                self._start(missing, [job for job in self._jobs if job.name in wanted and (missing or only)])
            except BaseException:
                self._undo(missing, was_running=was_running)
                raise
        return [engine.name for engine in missing]

    def restart(self, names: Collection[str] = ()) -> list[str]:
        """Start services again, one after the other, with the code of today (default: all). Runs the jobs first.

        Returns their names. Raises `Problem` if a name is not that of a service, or if one does not become ready.
        """
        own = [one.name for group in ("services", "viewers") for one in self._groups.get(group, ())]
        if unknown := set(names).difference(own):
            raise Problem(f"Not a service: {', '.join(sorted(unknown))}. The services are {', '.join(own)}.")
        with locked(self.root / "lock"):
            for job in self._jobs:
                self._run(job)
            chosen = [name for name in own if name in (names or own)]
            for name in chosen:
                self.supervisor.stop_program(name)
                self.supervisor.start_program(name)
                self._wait_started(self._engines[name])
        return chosen

    def down(self) -> None:
        """Stop everything in reverse order, also the processes that an earlier supervisord left behind."""
        with locked(self.root / "lock"):
            if self.supervisor.is_running():
                self.supervisor.shutdown()
            self._end_survivors()
            self._ports_file.unlink(missing_ok=True)

    def reset(self) -> None:
        """Stop everything and delete the data."""
        self.down()
        self.postgres.remove()
        self.supervisor.remove()

    def program(self, name: str) -> Program:
        return self._engines[name].program()

    def pid(self, name: str) -> int:
        return int(self.supervisor.processes()[name]["pid"])

    def kill(self, name: str, sent: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a program. If the program ends, supervisord starts it again."""
        os.kill(self.pid(name), sent)

    def wait_ready(self, name: str, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait until a program is ready, however often supervisord must start it. Raises `Problem`."""
        wait_ready(self._engines[name], lambda: True, self.supervisor.log(name), timeout_seconds)

    def _console(self, more: Mapping[str, str], admin_password: str) -> Console:
        logs, socket = supervisor.logs(self.root), supervisor.socket(self.root)
        found = places(self.ports.services, logs, socket, admin_password)
        return Console(self.root / "console", self.ports.console, found | dict(more))

    def _up(self) -> set[str]:
        if not self.supervisor.is_running():
            return set()
        return {name for name in self._engines if self.supervisor.is_up(name)}

    def _open(self, missing: Collection[Engine], *, was_running: bool) -> None:
        """Start supervisord if it is not running, check the ports of the missing programs, and create their files."""
        if was_running and not self.supervisor.is_current():
            raise Problem(f"The stack {self.name} is running with other settings: stop it first, with `make down`.")
        if not was_running:
            self._end_survivors()
        for engine in missing:
            ports.refuse_taken(engine.name, engine.host, engine.ports)
        self.root.mkdir(parents=True, exist_ok=True)
        self._secrets.save()
        for engine in missing:
            engine.prepare()
        if not was_running:
            self.supervisor.start()
            self._ports_file.write_text(json.dumps(asdict(self.ports)))

    def _start(self, missing: Collection[Engine], jobs: Collection[services.Job]) -> None:
        for group, engines in self._groups.items():
            if group == "services":
                for job in jobs:
                    self._run(job)
            chosen = [engine for engine in engines if engine in missing]
            for engine in chosen:
                self.supervisor.start_program(engine.name)
            for engine in chosen:
                self._wait_started(engine)

    def _wait_started(self, engine: Engine) -> None:
        log = self.supervisor.log(engine.name)
        wait_ready(engine, lambda: self.supervisor.is_up(engine.name), log, READY_SECONDS)
        logger.info("%s is ready", engine.name)

    def _run(self, job: services.Job) -> None:
        program, log = job.program(), self.supervisor.log(job.name)
        environment = {**os.environ, **program.marked(self.root)}
        try:
            with log.open("ab") as output:
                subprocess.run(
                    program.command,
                    cwd=program.folder,
                    env=environment,
                    check=True,
                    timeout=JOB_SECONDS,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
        except subprocess.SubprocessError as error:
            raise Problem(f"{job.name} failed{log_end(log)}") from error
        logger.info("%s is done", job.name)

    def _undo(self, missing: Collection[Engine], *, was_running: bool) -> None:
        if not was_running:
            self.supervisor.shutdown()
            self._ports_file.unlink()
            return
        for engine in reversed(list(missing)):
            self.supervisor.stop_program(engine.name)

    def _end_survivors(self) -> None:
        # A supervisord that does not answer is killed first. Otherwise it would restart the programs that stop here.
        supervisord = Program("supervisord", (), stop_signal=signal.SIGKILL)
        end_survivors(self.root, [supervisord, *(engine.program() for engine in reversed(self._engines.values()))])


def saved_ports(root: Path) -> Ports | None:
    """Read the ports of the stack in `root`. Returns None if it was not started, or was stopped.

    Another version of this program may have started it. A port that the file lacks gets its default. A port that only
    the other version has is ignored. If the file cannot be parsed, the result is None.
    """
    try:
        saved = json.loads((root / PORTS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return Ports(**{one.name: saved[one.name] for one in fields(Ports) if one.name in saved})
