"""A Postgres and a Kafka for one benchmark run, as durable as in production, and migrated databases."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg

from contracts import topics
from local import ports
from local.kafka import Kafka
from local.postgres import Postgres
from local.process import Server
from migrations.config import FILES, variable

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".local" / "bench"
PARTITIONS = 12
PASSWORD = "bench"  # noqa: S105  # of databases that are dropped again


@dataclass(frozen=True)
class Servers:
    """The addresses and processes of the servers. Every benchmark creates its own databases."""

    postgres_port: int
    kafka_port: int
    broker: Kafka
    pids: dict[str, int]

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"

    def url(self, database: str, role: str = "postgres", password: str = "postgres") -> str:
        return f"postgresql://{role}:{password}@127.0.0.1:{self.postgres_port}/{database}"

    def service_url(self, database: str, service: str) -> str:
        return self.url(database, f"{service}_user", PASSWORD)

    async def migrate(self, database: str) -> None:
        """Create the database again, with the shop's schemas, catalogue and stock."""
        admin = await asyncpg.connect(self.url("postgres"))
        await admin.execute(f"drop database if exists {database} with (force)")
        await admin.execute(f"create database {database}")
        await admin.close()
        command = [sys.executable, "-m", "migrations", "up", "--seed"]
        passwords = {variable(section): PASSWORD for section in FILES}
        environment = {**os.environ, "ADMIN_DATABASE_URL": self.url(database), **passwords}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)  # noqa: ASYNC221  # nothing else runs yet


@contextmanager
def running(partitions: int = PARTITIONS) -> Iterator[Servers]:
    """Start both servers and create the shop's topics. At the end, stop both and delete the files of Postgres."""
    first = ports.free_block(3)
    engine = Postgres(FOLDER / "postgres", first + 2)
    engine.remove()
    broker = Kafka(FOLDER / f"kafka-{first}", first, cache=ROOT / ".local" / "cache")
    servers = [Server(engine, FOLDER / "postgres-server"), Server(broker, FOLDER / "kafka-server")]
    try:
        for server in servers:
            server.start()
        asyncio.run(topics.create(f"127.0.0.1:{first}", partitions, 1))
        yield Servers(first + 2, first, broker, {"postgres": servers[0].pid, "kafka": servers[1].pid})
    finally:
        for server in reversed(servers):
            server.stop()
        engine.remove()


@contextmanager
def another_broker(
    run: Servers, *, passwords: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Servers]:
    """The servers with a second, empty Kafka, without topics. It stops at the end of the block."""
    port = ports.free_block(2)
    chosen = None if passwords is None else lambda: passwords
    cache = ROOT / ".local" / "cache"
    engine = Kafka(FOLDER / f"kafka-{port}", port, cache=cache, settings=settings, passwords=chosen)
    server = Server(engine, FOLDER / f"kafka-server-{port}")
    try:
        server.start()
        yield replace(run, kafka_port=port, broker=engine, pids={**run.pids, "kafka": server.pid})
    finally:
        server.stop()
