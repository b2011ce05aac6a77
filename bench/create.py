"""Durable orders with outbox rows, without HTTP: group commit compared with a transaction per call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count

import asyncpg
import uvloop

from bench import report, servers
from bench.report import Rate
from orders.domain import Request
from orders.placement import Placement
from shared import postgres

CLIENTS = 128
SECONDS = 8.0
ROUNDS = 2


async def load(name: str, call: Callable[[int], Awaitable[object]], clients: int, seconds: float) -> Rate:
    """Let `clients` clients call for `seconds`. Each client makes one call at a time."""
    latencies: list[float] = []
    numbers = count()
    until = time.perf_counter() + seconds

    async def client() -> None:
        while (started := time.perf_counter()) < until:
            await call(next(numbers))
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return Rate(name, len(latencies), time.perf_counter() - started, latencies)


def _request(number: int) -> Request:
    return Request(f"u{number % 1000}", "burger", 2, "bench")


async def grouped(url: str) -> Rate:
    placement = Placement(url, 60)
    stop = asyncio.Event()
    running = asyncio.create_task(placement.run(stop))
    rate = await load("group commit", lambda n: placement.place(_request(n)), CLIENTS, SECONDS)
    stop.set()
    await running
    return rate


async def singly(url: str) -> Rate:
    placement = Placement(url, 60)
    async with postgres.pool(url, size=16, name="bench") as pool:

        async def call(number: int) -> None:
            async with pool.acquire() as conn, conn.transaction():
                await placement.write(conn, [_request(number)])

        return await load("a transaction per call (pool of 16)", call, CLIENTS, SECONDS)


async def measure(run: servers.Servers) -> None:
    await run.migrate("bench_create")
    url = run.service_url("bench_create", "orders")
    found = [rate for _ in range(ROUNDS) for rate in (await grouped(url), await singly(url))]
    report.show(f"create: durable order + outbox row, {CLIENTS} callers in one process", *found)
    for n in range(ROUNDS):
        report.ratio(f"round {n + 1}, ratio", found[2 * n].per_second / found[2 * n + 1].per_second, 3, 5)
    conn = await asyncpg.connect(url)
    orders, rows = (
        await conn.fetchval("select count(*) from orders"),
        await conn.fetchval("select count(*) from outbox"),
    )
    await conn.close()
    report.audit("answers = orders = outbox rows", sum(rate.count for rate in found), orders, rows)


def main(run: servers.Servers) -> None:
    uvloop.run(measure(run))
