"""What one pod needs: memory, CPU and connections of each process of the cluster, idle and under load.

Every service runs as in `deploy/kubernetes/`: an API, a relay with its worker, and a consumer, one process each. The
requests and limits there, and the connections in `documents/kubernetes/scaling.py`, come from here.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import asyncpg
import psutil
import uvloop

from bench import processes, saga, servers, shop
from documents.kubernetes import parts, scaling
from documents.kubernetes.parts import Process
from local import ports

ORDERS = 20_000
IDLE_SECONDS = 10.0
EVERY_SECONDS = 0.25
_MIB = 2**20
_CONNECTIONS = "select client_port from pg_stat_activity where client_port > 0"


@dataclass
class Need:
    """The most that a process has needed so far: memory (MiB) and connections to Postgres; and its CPU (cores)."""

    memory: float = 0.0
    connections: int = 0
    idle_cores: float = 0.0
    busy_cores: float = 0.0


@dataclass
class Footprint:
    """The needs of all processes, by name."""

    running: Mapping[str, psutil.Process]
    needs: dict[str, Need] = field(default_factory=dict)

    def cpu(self) -> dict[str, float]:
        return {name: processes.cpu_seconds(process) for name, process in self.running.items()}

    async def sample(self, conn: asyncpg.Connection) -> None:
        open_ports = {row[0] for row in await conn.fetch(_CONNECTIONS)}
        for name, process in self.running.items():
            need = self.needs.setdefault(name, Need())
            own = sum(one.laddr.port in open_ports for one in process.net_connections("tcp"))
            need.memory = max(need.memory, process.memory_info().rss / _MIB)
            need.connections = max(need.connections, own)


@contextmanager
def running(run: servers.Servers, database: str) -> Iterator[tuple[int, Footprint]]:
    """Start every process of every service. Yields the port of the API of orders, and the processes."""
    with ExitStack() as stack:
        started, orders_port, auth_port = {}, ports.free_block(1), ports.free_block(1)
        own_ports = {"orders-api": orders_port, "auth-api": auth_port}
        for process in parts.all_processes():
            port = own_ports.get(process.name) or ports.free_block(1)
            environment = _environment(run, database, process, auth_port)
            arguments = ("--only", ",".join(process.only))
            opened = processes.running(process.name, process.service, *arguments, port=port, environment=environment)
            started[process.name] = stack.enter_context(opened)
        yield orders_port, Footprint(started)


def _environment(run: servers.Servers, database: str, process: Process, auth_port: int) -> dict[str, str]:
    return {
        "DATABASE_URL": run.service_url(database, process.service),
        "PROVIDER_DATABASE_URL": run.service_url(database, "provider"),
        "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
        "AUTH_JWKS_URL": f"http://127.0.0.1:{auth_port}/auth/jwks.json",
        "ADMIN_PASSWORD": "only for this benchmark",
        "POOL_SIZE": str(process.pool_size),
        "REQUIRE_TOKEN": "false",
    }


async def _measure(run: servers.Servers, url: str, port: int, found: Footprint) -> None:
    conn = await asyncpg.connect(url)
    before, started = found.cpu(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    await found.sample(conn)
    _add(found, "idle_cores", before, started)
    over, made = asyncio.Event(), shop.Shop(url, [port], {**found.running, **_engines(run)})
    before, started = found.cpu(), time.monotonic()
    load = asyncio.create_task(_load(made, over))
    while not over.is_set():
        await found.sample(conn)
        await asyncio.sleep(EVERY_SECONDS)
    await load
    _add(found, "busy_cores", before, started)
    await conn.close()


def _engines(run: servers.Servers) -> dict[str, psutil.Process]:
    return {name: psutil.Process(pid) for name, pid in run.pids.items()}


async def _load(made: shop.Shop, over: asyncio.Event) -> None:
    """Whole orders as fast as this machine can."""
    try:
        started = time.monotonic()
        await saga.place(made.ports, ORDERS, saga.CLIENTS)
        await saga.all_final(made, ORDERS)
        print(f"\nfootprint: {ORDERS / (time.monotonic() - started):,.0f} orders/s to the end, on this whole machine")
    finally:
        over.set()


def _add(found: Footprint, name: str, before: Mapping[str, float], started: float) -> None:
    seconds = time.monotonic() - started
    for process, used in found.cpu().items():
        setattr(found.needs[process], name, (used - before[process]) / seconds)


def _show(found: Footprint) -> None:
    print("  process              memory MiB   cores idle   cores busy   connections   (at most)")
    bounds = {process.name: scaling.connections(process) for process in parts.all_processes()}
    for name, need in found.needs.items():
        most = bounds[name]
        verdict = "" if need.connections <= most else "   MORE THAN COUNTED"
        cores = f"{need.idle_cores:10.3f}   {need.busy_cores:10.3f}"
        print(f"  {name:20} {need.memory:10.0f}   {cores}   {need.connections:11}   {most:9}{verdict}")


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_footprint"))
    with running(run, "bench_footprint") as (port, found):
        uvloop.run(_measure(run, run.url("bench_footprint"), port, found))
        _show(found)
