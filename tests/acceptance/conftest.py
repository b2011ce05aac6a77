"""The whole system as real processes, one stack for all acceptance tests, and the faults that tests cause.

Every test ends with `system.settled()`, which waits for quiet and runs the checker over everything since the start.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.access import ADMIN
from local import ports, services
from local.console import Viewers
from local.process import survivors
from local.stack import KafkaOptions, Ports, Stack
from shared.delivery.kafka import Brokers
from tests import arrows, groups, leaks
from tests.acceptance import checker, client
from tests.acceptance.checker import Evidence, Poison
from tests.acceptance.client import Client, History
from tests.acceptance.people import ADMIN_PASSWORD, PASSWORD
from tests.builders import eventually
from tests.lag import Lag, Pids, measured
from tests.tokens import Mint

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
STOP_SECONDS = 10.0


@dataclass
class Instance:
    """A process of a service that supervisord does not know and does not restart."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM, as a deploy does, and return the exit code. Raises `TimeoutExpired`."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)


@dataclass
class System:
    """The stack, the history of all clients, and the poison that tests wrote into Kafka."""

    stack: Stack
    histories: list[History] = field(default_factory=list)
    poison: list[Poison] = field(default_factory=list)
    new_types: set[tuple[str, str]] = field(default_factory=set)
    measured: dict[str, list[float]] = field(default_factory=dict)
    mint: Mint | None = None
    lag: Lag = field(default_factory=Lag)
    connections: arrows.Seen = field(default_factory=set)
    """Which programs of the stack have connected to which, since its start."""
    is_history_complete: bool = True
    """True if every order and restock was requested by one of `customers`."""

    @property
    def database_url(self) -> str:
        return self.stack.database_url()

    @property
    def kafka(self) -> Brokers:
        """Kafka, as its super user."""
        return self.brokers(ADMIN)

    def brokers(self, user: str) -> Brokers:
        password = self.stack.secret(f"{user}/kafka_password")
        return Brokers(f"127.0.0.1:{self.stack.ports.kafka}", "SASL_PLAINTEXT", username=user, password=password)

    @property
    def orders_url(self) -> str:
        return f"http://127.0.0.1:{self.stack.ports.orders}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.stack.ports.gateway}"

    @asynccontextmanager
    async def customers(self, *urls: str, keep_alive: bool = True) -> AsyncIterator[Client]:
        """A client whose calls the checker sees; by default it calls the orders port and the gateway in turn."""
        history: History = []
        self.histories.append(history)
        chosen = urls or (self.orders_url, self.gateway_url)
        async with client.opened(chosen, self.tokens, history, keep_alive=keep_alive) as made:
            yield made

    async def rows(self, sql: str) -> list[Any]:
        """The rows that a query returns. The super user of the database sends it."""
        conn = await asyncpg.connect(self.database_url)
        try:
            return list(await conn.fetch(sql))
        finally:
            await conn.close()

    def tokens(self, user_id: str | None) -> dict[str, str]:
        """The header with the token of a user, or of an administrator for None, signed with auth's own key."""
        assert self.mint is not None
        return self.mint.header(user_id) if user_id else self.mint.admin

    async def settled(self) -> Evidence:
        """Wait for quiet, and check everything since the stack was started."""
        self.measure("quiet after", await checker.quiet(self.database_url, self.kafka))
        evidence = await checker.gather(self.database_url, self.kafka)
        evidence.history, evidence.poison = [call for history in self.histories for call in history], self.poison
        evidence.is_history_complete = self.is_history_complete
        evidence.new_types = self.new_types
        found = checker.complaints(evidence)
        assert not found, f"{len(found)} complaints:\n" + "\n".join(found[:20])
        return evidence

    def leaked(self) -> list[str]:
        """Search all logs since the start of the stack for the secrets that clients sent or got."""
        calls = [call for history in self.histories for call in history]
        tokens = {str(call.answer.get(name, "")) for call in calls for name in ("token", "refresh_token")}
        keys = [self.mint.key.private_bytes_raw()] if self.mint else []
        made = {path.read_text().strip() for path in self.stack.secrets.glob("*/*")}
        return leaks.found(self.stack.root / "logs", {PASSWORD, ADMIN_PASSWORD, *tokens, *made}, keys)

    def measure(self, what: str, seconds: float) -> None:
        self.measured.setdefault(what, []).append(seconds)

    async def crash(self, name: str) -> float:
        """Send SIGKILL to a program; return the seconds until it serves again, restarted only by supervisord."""
        return await asyncio.to_thread(self._crash, name)

    def _crash(self, name: str) -> float:
        before, started = self.stack.pid(name), time.monotonic()
        os.kill(before, signal.SIGKILL)
        while self.stack.supervisor.processes()[name]["pid"] in {0, before}:
            time.sleep(0.01)
        self.stack.wait_ready(name)
        seconds = time.monotonic() - started
        self.measure(f"kill {name}", seconds)
        return seconds

    @asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """Send SIGSTOP to a program and all its children, and SIGCONT at the end."""
        main = psutil.Process(self.stack.pid(name))
        main.suspend()
        family = [main, *main.children(recursive=True)]
        try:
            for process in family[1:]:
                with suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in reversed(family):
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    async def stop(self, name: str) -> int:
        """Send SIGTERM to a supervised program; return its exit code, or -1 if it had to be killed."""
        started = time.monotonic()
        await asyncio.to_thread(self.stack.supervisor.stop_program, name)
        self.measure(f"stop {name}", time.monotonic() - started)
        return int(self.stack.supervisor.processes()[name]["exitstatus"])

    async def start(self, name: str) -> None:
        """Start a supervised program again; return when this process serves, not another one at its port."""
        self.stack.supervisor.start_program(name)
        started = time.monotonic()
        await asyncio.to_thread(self.stack.wait_ready, name)
        if name in checker.PUBLISHERS:
            await wait_until_ready(self.stack.supervisor.log(name), self.stack.pid(name))
        self.measure(f"start {name}", time.monotonic() - started)

    @asynccontextmanager
    async def instance(
        self, service: str, name: str, *arguments: str, port: int = 0, module: str = "", **environment: object
    ) -> AsyncIterator[Instance]:
        """Run one more process of a service until the end of the block; `arguments` are such as `--only api,relay`.

        `module` is another release of the service, see `releases/`.
        """
        port = port or ports.free_block(1)
        where = self.stack.ports
        others = {"postgres": where.postgres, "kafka": where.kafka, "auth": where.auth}
        (engine,) = services.services({service: port}, **others, secrets=self.stack.secrets)
        program = engine.program()
        *python, released = program.command
        changes = {"INSTANCE_ID": name} | {key: str(value) for key, value in environment.items()}
        with (self.stack.root / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220, S603  # it takes a millisecond, and the command is ours
                [*python, module or released, *arguments],
                cwd=program.folder,
                env={**os.environ, **program.marked(self.stack.root), **changes},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        made = Instance(name, port, process)
        try:
            await wait_until_ready(Path(log.name), process.pid)
            yield made
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                try:
                    await asyncio.to_thread(made.stop)
                except subprocess.TimeoutExpired:
                    made.kill()

    @asynccontextmanager
    async def instead(
        self, service: str, *arguments: str, module: str = "", **environment: object
    ) -> AsyncIterator[Instance]:
        """Run a service with other settings at its own port, while the supervised process is stopped."""
        port = getattr(self.stack.ports, service)
        await self.stop(service)
        try:
            async with self.instance(
                service, f"{service}-1", *arguments, port=port, module=module, **environment
            ) as made:
                yield made
        finally:
            await self.start(service)


async def wait_until_ready(log: Path, pid: int) -> None:
    """Wait until the process `pid` logs that it is ready: several processes may share a port."""

    async def is_ready() -> bool:
        return f'"pid": {pid}, "event": "ready"' in log.read_text()  # noqa: ASYNC240  # small

    await eventually(is_ready, seconds=30)


SYSTEMS: dict[str, System] = {}


def running_system(
    name: str, run_folder: Path, request: pytest.FixtureRequest, viewers: Viewers | None = None
) -> System:
    """A stack that runs until the tests of its group are over. With `viewers` it has a console."""
    if name not in SYSTEMS:
        SYSTEMS[name] = groups.LIFETIME.enter_context(_running(name, run_folder, request, viewers))
        groups.LIFETIME.callback(SYSTEMS.pop, name)
    return SYSTEMS[name]


def viewed_system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    """A stack with a console, where no order ends by itself while a test looks at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "ORDER_DEADLINE_SECONDS", "3600")
        return running_system("browser", run_folder, request, Viewers())


@pytest.fixture
def fuzzed_system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    """A stack for the tests that send arbitrary requests. There is no history of these requests."""
    system = running_system("fuzzed", run_folder, request)
    system.is_history_complete = False
    system.mint = system.mint or asyncio.run(auth_mint(system.database_url))
    return system


@contextmanager
def _running(name: str, run_folder: Path, request: pytest.FixtureRequest, viewers: Viewers | None) -> Iterator[System]:
    stack = Stack(
        name,
        run_folder / name,
        Ports.free(),
        postgres_settings=DURABLE,
        admin_password=ADMIN_PASSWORD,
        kafka=KafkaOptions(users=("shipping", "billing")),
        viewers=viewers,
    )
    leaked: list[str] = []
    stack.reset()
    stack.up()
    try:
        with measured(programs(stack)) as lag, arrows.recorded(stack) as recorder:
            system = System(stack, lag=lag, connections=recorder.seen)
            yield system
    finally:
        stack.down()
        left = [(name, process.pid) for name, process in survivors(stack.root)]
        for what, seconds in sorted(system.measured.items()):
            print(f"{what:20} {len(seconds):3} times, at most {max(seconds):5.2f} s, at least {min(seconds):5.2f} s")  # noqa: T201
        leaked = system.leaked()
        if not request.session.testsfailed and not leaked:  # after a failure, the logs are kept
            stack.reset()
    assert not left, f"these processes outlived the stack: {left}"
    assert not leaked, f"secrets are in the logs: {leaked}"
    forbidden = system.connections - arrows.allowed()
    assert not forbidden, f"no NetworkPolicy allows these connections: {forbidden}"


def programs(stack: Stack) -> Pids:
    """The pids of the stack's programs."""

    def pids() -> list[int]:
        try:
            supervisord = int((stack.root / "supervisord.pid").read_text())
            return [int(pid) for pid in Path(f"/proc/{supervisord}/task/{supervisord}/children").read_text().split()]
        except (OSError, ValueError):  # it is starting or ending, or this is not Linux
            return []

    return pids


async def auth_mint(database_url: str) -> Mint:
    """A mint with auth's own key, so that tests can send requests of any user without a login."""
    conn = await asyncpg.connect(database_url)
    kid, private = await conn.fetchrow(
        "select kid, private_key from auth.signing_keys where signs_from <= now() order by signs_from desc limit 1"
    )
    await conn.close()
    mint = Mint(kid)
    mint.key = Ed25519PrivateKey.from_private_bytes(private)
    return mint


@pytest.fixture
def _system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    return running_system("acceptance", run_folder, request)


@pytest.fixture
async def system(_system: System) -> System:
    """The stack, with every program ready, also after a test that stopped some."""
    for name in _system.stack.supervisor.processes():
        if not _system.stack.supervisor.is_up(name):
            _system.stack.supervisor.start_program(name)
        await asyncio.to_thread(_system.stack.wait_ready, name)
    _system.mint = await auth_mint(_system.database_url)
    return _system
