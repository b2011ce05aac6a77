"""One supervised stack: its programs, the order in which they start, and its data, which only `reset` deletes."""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from contracts.access import ADMIN, USERS
from local import nginx, ports, services, supervisor
from local.console import Console, Viewers, places
from local.entry import ONLY_HERE, Entry
from local.files import locked
from local.kafka import Kafka
from local.postgres import SUPERUSER, Postgres
from local.problem import Problem
from local.process import Engine, Program, end_survivors, log_end, wait_ready
from local.supervisor import Supervisor
from shared.process.configuration import with_password
from shared.process.secret import replace, secret

logger = logging.getLogger(__name__)

HOME = services.PROJECT / ".local"
READY_SECONDS = 60
JOB_SECONDS = 120
PORTS_FILE = "ports.json"


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
    storefront: int = 8087
    gateway: int = 80
    gateway_tls: int = 443
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


@dataclass(frozen=True)
class KafkaOptions:
    """The most memory of Kafka's heap, and further users, for services that are not of the stack."""

    heap: str = "256m"
    users: tuple[str, ...] = ()


class Stack:
    """A stack called `name`, with all its files below `root`.

    `postgres_settings` are added to the durable defaults. `entry` says who reaches the gateway. Each step of the stack
    is logged at level INFO. The storefront and the console run only if there are `viewers`.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        where: Ports,
        *,
        kafka: KafkaOptions = KafkaOptions(),
        postgres_settings: Mapping[str, str] | None = None,
        entry: Entry = ONLY_HERE,
        admin_password: str = "password",
        viewers: Viewers | None = None,
    ) -> None:
        self.name, self.root, self.ports = name, root.resolve(), where
        self._ports_file = self.root / PORTS_FILE
        self.secrets = self.root / "secrets"
        self.postgres = Postgres(
            self.root / "postgres", where.postgres, settings=postgres_settings, secrets=self.secrets
        )
        self._further_users, self._admin_password = kafka.users, admin_password
        self.kafka = Kafka(
            self.root / "kafka", where.kafka, cache=HOME / "cache", heap=kafka.heap, passwords=self._kafka_passwords
        )
        self._services = services.services(
            where.services,
            postgres=where.postgres,
            kafka=where.kafka,
            auth=where.auth,
            secrets=self.secrets,
            console=where.console if viewers else None,
        )
        upstreams = {f"{name.upper()}_UPSTREAM": f"{ports.LOOPBACK}:{asdict(where)[name]}" for name in nginx.UPSTREAMS}
        http = (where.gateway, where.gateway_tls)
        self.gateway = nginx.Gateway(self.root / "gateway", http, upstreams, entry)
        groups: dict[str, tuple[Engine, ...]] = {
            "data": (self.postgres, self.kafka),
            "services": self._services,
            "viewers": self._viewers(viewers) if viewers else (),
            "gateway": (self.gateway,),
        }
        self._groups = {name: group for name, group in groups.items() if group}
        self._jobs = services.jobs(where.postgres, where.kafka, self.secrets)
        self._engines = {engine.name: engine for group in self._groups.values() for engine in group}
        programs = {name: [engine.program() for engine in group] for name, group in self._groups.items()}
        self.supervisor = Supervisor(self.root, programs)

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
        _refuse_unknown(wanted, self.names)
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

        Returns their names. Raises `Problem` if a name is not that of a service or a setting is wrong; then nothing was
        stopped. Raises `Problem` if a service does not become ready.
        """
        own = [one.name for group in ("services", "viewers") for one in self._groups.get(group, ())]
        if unknown := set(names).difference(own):
            raise Problem(f"Not a service: {', '.join(sorted(unknown))}. The services are {', '.join(own)}.")
        chosen = [name for name in own if name in (names or own)]
        with locked(self.root / "lock"):
            self._make_secrets()
            self._refuse_wrong_settings([self._engines[name] for name in chosen])
            for job in self._jobs:
                self._run(job)
            for name in chosen:
                self._start_and_wait(name)
        return chosen

    def stop(self, names: Collection[str]) -> None:
        """Stop programs, one after the other, until `start` or `up`. Raises `Problem` if a name is unknown."""
        _refuse_unknown(names, self._engines)
        with locked(self.root / "lock"):
            for name in names:
                self.supervisor.stop_program(name)

    def start(self, names: Collection[str]) -> None:
        """Start the programs of `names` that are not running, and return when they are ready. Raises `Problem`."""
        _refuse_unknown(names, self._engines)
        with locked(self.root / "lock"):
            stopped = [name for name in names if not self.supervisor.is_up(name)]
            self._refuse_wrong_settings([self._engines[name] for name in stopped])
            for name in stopped:
                self._start_and_wait(name)

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
        self.gateway.remove()
        self.supervisor.remove()

    def secret(self, name: str) -> str:
        """A secret by its folder and file. A missing one is made; `reset` deletes all."""
        return secret(self.secrets, name)

    def database_url(self, role: str = "postgres", password: str = SUPERUSER) -> str:
        """The address of the database for a role, with its password, which is the secret of this name."""
        return with_password(services.database_url(role, self.ports.postgres), self.secret(password))

    def kafka_client(self, user: str) -> dict[str, str]:
        """The settings with which a process reaches Kafka as `user`. Raises `Problem` if there is no such user."""
        _refuse_unknown([user], self._kafka_users)
        return services.kafka_client(self.ports.kafka, user, self.secrets)

    def environment(self, name: str) -> Mapping[str, str]:
        """The settings with which a service or a job of this stack, or a service of a further user, runs beside it.

        `operations` are those of commands that need both super users, such as `python -m migrations partitions`.
        """
        if name == "operations":
            return {**self.environment("migrate"), **self._as_kafka_user(ADMIN)}
        if name in self._kafka_users and name not in (ADMIN, *USERS):
            return self._of_new_service(name)
        found = {
            **{job.name: job.program() for job in self._jobs},
            **{one.name: one.program() for one in self._services},
        }
        if name not in found:
            raise Problem(f"Not a service or a job: {name}. There are {', '.join(found)}.")
        chosen = {key: value for key, value in found[name].environment.items() if key != "INSTANCE_ID"}
        return chosen | ({"ADMIN_DATABASE_URL": self.database_url()} if name == "migrate" else {})

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

    def _of_new_service(self, user: str) -> Mapping[str, str]:
        """What a service that is not of this stack needs: Kafka, and both super users, for its own set-up."""
        return {
            **self._as_kafka_user(user),
            "KAFKA_ADMIN_USERNAME": ADMIN,
            "KAFKA_ADMIN_PASSWORD": self._kafka_passwords()[ADMIN],
            "ADMIN_DATABASE_URL": self.database_url(),
        }

    def _as_kafka_user(self, user: str) -> dict[str, str]:
        """The settings of a client of Kafka, with its password and not the folder that has it."""
        client = {key: value for key, value in self.kafka_client(user).items() if key != "SECRETS_FOLDER"}
        return {**client, "KAFKA_PASSWORD": self._kafka_passwords()[user]}

    @property
    def _kafka_users(self) -> list[str]:
        """The super user, those of this stack, and further ones: these were given now, or at an earlier start."""
        known = sorted(path.parent.name for path in self.secrets.glob("*/kafka_password"))
        return list(dict.fromkeys((ADMIN, *USERS, *self._further_users, *known)))

    def _kafka_passwords(self) -> dict[str, str]:
        return {user: self.secret(f"{user}/kafka_password") for user in self._kafka_users}

    def _make_secrets(self) -> None:
        for name in services.SECRETS:
            self.secret(name)
        self.set_admin_password(self._admin_password)

    def set_admin_password(self, password: str) -> None:
        """Write the administrator's password to the files from which auth and the console read it."""
        for name in services.ADMIN_PASSWORDS:
            replace(self.secrets / name, password.encode())

    def _has_other_password(self) -> bool:
        file = self.secrets / services.ADMIN_PASSWORDS[0]
        return file.exists() and file.read_text() != self._admin_password

    def _viewers(self, viewers: Viewers) -> tuple[Engine, ...]:
        logs, socket = supervisor.logs(self.root), supervisor.socket(self.root)
        found = places(self.ports.services, logs, socket, self.secrets) | dict(viewers.settings)
        console = Console(self.root / "console", self.ports.console, found)
        storefront = services.storefront(
            self.ports.storefront, self.ports.services, self.ports.kafka, self.secrets, socket
        )
        return (*viewers.others, storefront, console)

    def _wrong_settings(self, engines: Iterable[Engine]) -> list[str]:
        """A sentence for each variable that one or more programs would refuse."""
        own = [engine.program() for engine in engines if isinstance(engine, services.Service | Console)]
        found = (line for program in own for line in services.wrong_settings(program, self._admin_password))
        return list(dict.fromkeys(found))

    def _refuse_wrong_settings(self, engines: Iterable[Engine]) -> None:
        if found := self._wrong_settings(engines):
            raise Problem("\n".join(found))

    def _up(self) -> set[str]:
        if not self.supervisor.is_running():
            return set()
        return {name for name in self._engines if self.supervisor.is_up(name)}

    def _open(self, missing: Collection[Engine], *, was_running: bool) -> None:
        """Start supervisord if it is not running, check the ports of the missing programs, and create their files."""
        if was_running and not self.supervisor.is_current():
            raise Problem(f"The stack {self.name} is running with other settings: stop it first, with `make down`.")
        if was_running and self._has_other_password():
            raise Problem(
                "To change the password of admin now: ADMIN_PASSWORD=... make rotate NAME=auth/admin_password"
            )
        if not was_running:
            self._end_survivors()
        found = [line for engine in missing for line in ports.complaints(engine.name, engine.host, engine.ports)]
        found += self._wrong_settings(missing)
        if found:
            raise Problem("\n".join(found))
        self._make_secrets()
        for engine in missing:
            engine.prepare()
        if not was_running:
            self.supervisor.start()
            self._ports_file.write_text(json.dumps(asdict(self.ports)))

    def _start_and_wait(self, name: str) -> None:
        self.supervisor.start_program(name)
        self._wait_started(self._engines[name])

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
            with log.open("wb") as output:  # of the last run only, so that the file does not grow
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


def _refuse_unknown(names: Iterable[str], known: Collection[str]) -> None:
    if unknown := set(names).difference(known):
        raise Problem(f"Unknown: {', '.join(sorted(unknown))}. This stack has: {', '.join(known)}")


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
