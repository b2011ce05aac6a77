"""The whole shop for a benchmark: three services, a Postgres and a Kafka, and the CPU that they use together."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import asyncpg
import psutil

from bench import processes
from bench.servers import Servers
from local import ports

SERVICES = ("orders", "inventory", "payments")


@dataclass(frozen=True)
class Part:
    """A process of a service. `only` are its parts, separated by commas; "" stands for all of them."""

    service: str
    only: str = ""
    number: int = 1

    @property
    def name(self) -> str:
        copy = "" if self.number == 1 else f" {self.number}"
        return f"{self.service} {self.only}".strip() + copy

    @property
    def takes_orders(self) -> bool:
        return self.service == "orders" and (not self.only or "api" in self.only)


WHOLE = [Part(service) for service in SERVICES]
APART = [Part("orders", "api"), Part("orders", "relay,consumer,worker"), *WHOLE[1:]]
"""The API of orders in a process of its own."""
PARTS = [
    *(Part("orders", only) for only in ("api", "relay", "consumer", "worker")),
    *(Part("inventory", only) for only in ("relay", "consumer")),
    *(Part("payments", only) for only in ("relay", "consumer", "worker")),
]
"""Each part in a process of its own, without the APIs that no order needs."""


@dataclass(frozen=True)
class Shop:
    """A running shop. `processes` are its services and servers, without the load generator."""

    url: str
    ports: Sequence[int]
    """Where orders are placed."""
    processes: Mapping[str, psutil.Process]

    @property
    def port(self) -> int:
        return self.ports[0]

    def cpu(self) -> Counter[str]:
        """CPU seconds used so far, by each service, Postgres and Kafka."""
        return Counter({name: processes.cpu_seconds(process) for name, process in self.processes.items()})

    async def counts(self) -> dict[str, int]:
        """The number of orders by status, and the number of outbox rows by service."""
        conn = await asyncpg.connect(self.url)
        rows = await conn.fetch("select status, count(*) from orders.orders group by status")
        found = {row[0]: row[1] for row in rows}
        for service in SERVICES:
            found[service] = await conn.fetchval(f"select count(*) from {service}.outbox")
        await conn.close()
        return found


@contextmanager
def running(
    run: Servers,
    database: str,
    environment: Callable[[str], Mapping[str, str]] = lambda _: {},
    layout: Sequence[Part] = WHOLE,
) -> Iterator[Shop]:
    """Start the processes of `layout` on a migrated database. They stop at the end of the block.

    `environment` returns further variables of a service.
    """
    with ExitStack() as stack:
        started = {name: psutil.Process(pid) for name, pid in run.pids.items()}
        where = []
        for part in layout:
            port = ports.free_block(1)
            where += [port] if part.takes_orders else []
            variables = {
                "DATABASE_URL": run.service_url(database, part.service),
                "PROVIDER_DATABASE_URL": run.service_url(database, "provider"),
                "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
                "INSTANCE_ID": f"{part.name.replace(' ', '-')}-bench",
                "REQUIRE_TOKEN": "false",
                **environment(part.service),
            }
            only = ["--only", part.only] if part.only else []
            process = processes.running(part.name, part.service, *only, port=port, environment=variables)
            started[part.name] = stack.enter_context(process)
        yield Shop(run.url(database), where, started)
