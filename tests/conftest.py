"""Fixtures for all tests: one real Postgres and one real Kafka per run, and a new database for each test."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import structlog
from asyncpg import Pool

from contracts import topics
from local import ports
from local.kafka import Kafka
from local.postgres import Postgres
from local.process import Server
from migrations.config import FILES, variable
from shared.postgres import pool as opened_pool
from tests import groups
from tests.lag import Lag, measured

# Plain tracebacks: structlog's own tracebacks show every local variable and take most of a second each.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

# The verdict of a test must not depend on how busy the machine is.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).parent.parent
PARTITIONS = 4
PASSWORDS = {section: f"{section} :/@%'\"?#" for section in FILES}
"""The password of each section's role: the characters that an address or a statement gives a meaning to."""
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 * 2**30  # noqa: S108 - the folder is the run's own


@dataclass(frozen=True)
class Database:
    """A database of one test; each service has its own role in it."""

    name: str
    port: int
    password: str = "postgres"

    def url_of(self, role: str, password: str) -> str:
        return f"postgresql://{role}:{quote(password, safe='')}@127.0.0.1:{self.port}/{self.name}"

    @property
    def admin_url(self) -> str:
        return self.url_of("postgres", self.password)

    def url_for(self, service: str) -> str:
        return self.url_of(f"{service}_user", PASSWORDS.get(service, service))

    @property
    def migration(self) -> dict[str, str]:
        """The environment of `python -m migrations`."""
        passwords = {variable(section): password for section, password in PASSWORDS.items()}
        return {**os.environ, "ADMIN_DATABASE_URL": self.admin_url, **passwords}

    def owned_by(self, section: str) -> AbstractAsyncContextManager[Pool]:
        """A pool of the owner of a schema, for what the service itself may not do."""
        settings = {"role": f"{section}_owner", "search_path": section}
        return asyncpg.create_pool(self.admin_url, min_size=0, max_size=2, server_settings=settings)


@dataclass(frozen=True)
class ServiceDatabase:
    """A database as one service sees it."""

    url: str
    provider_url: str


@dataclass(frozen=True)
class Broker:
    """A Kafka broker for one test, which may kill it and start it again at the same address."""

    server: Server
    address: str


StartBroker = Callable[[str], Broker]


def pytest_configure(config: pytest.Config) -> None:
    """Each process of a parallel run gets its own range of ports. Otherwise two processes may choose the same port."""
    if worker := getattr(config, "workerinput", None):
        number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
        width = (ports.LAST - ports.FIRST) // count
        ports.FIRST += number * width
        ports.LAST = ports.FIRST + width


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the groups that take long first, so that none of them runs alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: groups.rank(groups.of(item.nodeid)))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop a stack when no test of its group follows: an idle stack needs a seventh of a core."""
    if nextitem is None or groups.of(nextitem.nodeid) != groups.of(item.nodeid):
        groups.LIFETIME.close()


@pytest.fixture
def lag() -> Iterator[Lag]:
    """How long the thread of the test waited for a core."""
    with measured() as found:
        yield found


@pytest.fixture(scope="session")
def run_folder() -> Iterator[Path]:
    """A folder that no other run uses now.

    Processes that an earlier run left there are stopped when a server starts in it.
    """
    for n in count(1):
        folder = ROOT / ".local" / "test" / str(n)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
            return


@pytest.fixture(scope="session")
def postgres(run_folder: Path) -> Iterator[int]:
    """A Postgres server without fsync, which only tests that kill a server need; yields the port."""
    settings = {"fsync": "off", "deadlock_timeout": "200ms", "max_wal_size": "256MB"}
    folder = in_memory(run_folder)
    with serving(
        Postgres(folder / "postgres", ports.free_block(1), settings=settings), run_folder / "postgres"
    ) as port:
        yield port
    if folder != run_folder:
        folder.rmdir()


@contextmanager
def serving(engine: Postgres, logs: Path) -> Iterator[int]:
    """Run a Postgres server with an empty folder, which is deleted at the end; yields the port."""
    engine.remove()
    server = Server(engine, logs)
    server.start()
    yield engine.ports[0]
    server.stop()
    engine.remove()


def in_memory(folder: Path) -> Path:
    """A folder in memory, or `folder` if there is no room.

    A database for each test takes 20 ms in memory, and up to 600 ms on a disk.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return folder
    own = MEMORY / f"quickbite-{sha256(str(folder).encode()).hexdigest()[:12]}"
    own.mkdir(exist_ok=True)
    return own


@contextmanager
def brokers(run_folder: Path) -> Iterator[StartBroker]:
    """A function that starts new, empty brokers; they are stopped at the end of the block."""
    with ExitStack() as stack:

        def start(name: str) -> Broker:
            root, port = run_folder / name, ports.free_block(2)
            shutil.rmtree(root, ignore_errors=True)
            server = Server(Kafka(root, port, cache=ROOT / ".local" / "cache"), root)
            stack.callback(server.stop)
            server.start()
            return Broker(server, f"127.0.0.1:{port}")

        yield start


@pytest.fixture
def start_broker(run_folder: Path) -> Iterator[StartBroker]:
    """A function that starts brokers for one test, which may kill them."""
    with brokers(run_folder) as start:
        yield start


@pytest.fixture(scope="module")
def kafka(run_folder: Path) -> Iterator[str]:
    """The address of the module's broker, which no test kills. Tests use their own topics."""
    with brokers(run_folder) as start:
        yield start("kafka").address


@pytest.fixture(scope="session")
def template(postgres: int) -> Database:
    """A migrated and seeded database, from which each test's database is copied."""
    made = Database("template_quickbite", postgres)

    async def create() -> None:
        conn = await asyncpg.connect(Database("postgres", postgres).admin_url)
        await conn.execute(f"create database {made.name}")
        await conn.close()

    asyncio.run(create())
    command = [sys.executable, "-m", "migrations", "up", "--seed"]
    # `make former` runs the tests of an older release on the schema of today.
    folder = os.environ.get("MIGRATE_IN", ROOT)
    subprocess.run(command, check=True, cwd=folder, env=made.migration)  # noqa: S603  # our own program
    return made


@asynccontextmanager
async def created(port: int, kind: str, how: str = "") -> AsyncIterator[Database]:
    """Create a database `<kind>_…` on the server, and drop it afterwards. `how` is the end of the statement."""
    made = Database(f"{kind}_{uuid4().hex[:12]}", port)
    conn = await asyncpg.connect(Database("postgres", port).admin_url)
    await conn.execute(f"create database {made.name} {how}")
    yield made
    await conn.execute(f"drop database {made.name} with (force)")
    await conn.close()


@asynccontextmanager
async def copied_from(template: Database) -> AsyncIterator[Database]:
    """Yield a copy of the template, and drop it afterwards."""
    async with created(template.port, "test", f"template {template.name} strategy file_copy") as made:
        yield made


@pytest.fixture
async def database(template: Database) -> AsyncIterator[Database]:
    async with copied_from(template) as made:
        yield made


@pytest.fixture
def inventory_db(database: Database) -> ServiceDatabase:
    return ServiceDatabase(database.url_for("inventory"), "")


@pytest.fixture
def payments_db(database: Database) -> ServiceDatabase:
    return ServiceDatabase(database.url_for("payments"), database.url_for("provider"))


OpenPool = Callable[[str], Awaitable[Pool]]


@pytest.fixture
async def open_pool(database: Database) -> AsyncIterator[OpenPool]:
    """Open pools as services do: `pool = await open_pool("orders")`."""
    async with AsyncExitStack() as stack:

        async def opened(service: str) -> Pool:
            return await stack.enter_async_context(opened_pool(database.url_for(service), size=8, name="test"))

        yield opened


@pytest.fixture
async def pool(open_pool: OpenPool) -> Pool:
    """The pool of the orders service."""
    return await open_pool("orders")


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[Pool]:
    """The pool of the owner of the orders service's tables."""
    async with database.owned_by("orders") as opened:
        yield opened


async def create_table(owner: Pool, definition: str) -> None:
    """Create a table of a test, such as `effects (id bigint)`, which the orders service may use."""
    table = definition.partition(" ")[0]
    await owner.execute(
        f"create table {definition}; grant all on {table} to orders_user; "
        "grant usage on all sequences in schema orders to orders_user"
    )


@pytest.fixture
async def shop_topics(kafka: str) -> str:
    """Create the shop's topics; return the broker's address."""
    await topics.create(kafka, PARTITIONS, 1)
    return kafka
