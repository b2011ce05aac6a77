"""The whole shop for a benchmark: three services, a Postgres and a Kafka, and the CPU that they use together."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import asyncpg
import psutil

from bench import processes
from bench.servers import Servers
from local import ports

SERVICES = ("orders", "inventory", "payments")
_BEHIND = "relay,consumer,worker"


@dataclass(frozen=True)
class Shop:
    """A running shop. `processes` are its services and servers, without the load generator."""

    url: str
    port: int
    processes: Mapping[str, psutil.Process]

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
    *,
    apart: bool = False,
) -> Iterator[Shop]:
    """Start the services on a migrated database. They stop at the end of the block.

    `environment` returns further variables of a service. If `apart` is true, the API of orders is a process of its own.
    """
    parts: list[tuple[str, str, tuple[str, ...]]] = [(service, service, ()) for service in SERVICES]
    if apart:
        parts[:1] = [("orders", "orders", ("--only", "api")), ("orders", "orders behind", ("--only", _BEHIND))]
    with ExitStack() as stack:
        started = {name: psutil.Process(pid) for name, pid in run.pids.items()}
        orders_port = 0
        for service, name, arguments in parts:
            port = ports.free_block(1)
            orders_port = orders_port or port
            variables = {
                "DATABASE_URL": run.service_url(database, service),
                "PROVIDER_DATABASE_URL": run.service_url(database, "provider"),
                "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
                "INSTANCE_ID": f"{name.replace(' ', '-')}-bench",
                "REQUIRE_TOKEN": "false",
                **environment(service),
            }
            process = processes.running(name, service, *arguments, port=port, environment=variables)
            started[name] = stack.enter_context(process)
        yield Shop(run.url(database), orders_port, started)
