"""Handling events from Kafka: a transaction per batch, compared with one per message on eight connections."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import uvloop

from bench import report, servers
from bench.report import Rate
from contracts.orders import TOPIC, OrderCreated
from inventory import service
from shared import postgres
from shared.delivery import events, outbox
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from shared.delivery.kafka import Subscription
from shared.delivery.relay import Relay
from shared.process.tasks import collect_garbage_rarely
from tests.builders import order_created

EVENTS, SINGLE_EVENTS = 100_000, 10_000
CONNECTIONS = 8
SKUS = 1000  # so many that the eight connections need not wait for each other's rows

Work = Callable[[list[Record]], Awaitable[list[Record]]]


async def _publish(url: str, bootstrap: str) -> None:
    """Publish orders to Kafka as the shop does: through an outbox and a relay."""
    conn = await asyncpg.connect(url)
    for first in range(1, EVENTS + 1, 2000):
        rows = [events.encode(order_created(n, sku=f"sku{n % SKUS}")) for n in range(first, first + 2000)]
        await outbox.append_encoded(conn, rows)
    await conn.close()
    relay = Relay(url, bootstrap, service="orders", owner="bench")
    while await relay.run_once():
        pass
    await relay.close()


async def _stock(url: str) -> None:
    conn = await asyncpg.connect(url)
    await conn.execute(
        "insert into stock (sku, available) select 'sku' || n, 1000000 from generate_series(0, $1) n", SKUS
    )
    await conn.close()


async def _consume(name: str, bootstrap: str, work: Work, most: int) -> Rate:
    subscription = Subscription(bootstrap, name, [TOPIC], instance_id="", batch=500)
    await subscription.start()
    handled, started, cpu = 0, 0.0, 0.0
    while handled < most:
        batch = await subscription.poll(0.5)
        if batch and not started:
            started, cpu = time.perf_counter(), time.process_time()
        if batch and await subscription.handle(batch, work):
            handled += sum(map(len, batch.records.values()))
        await subscription.commit_if_due()
    rate = Rate(name, handled, time.perf_counter() - started, cpu_seconds=time.process_time() - cpu)
    await subscription.close()
    return rate


async def _batched(run: servers.Servers, database: str) -> Rate:
    async with postgres.pool(run.service_url(database, "inventory"), size=2, name="bench") as pool:
        handling = Handling(pool, "inventory", {OrderCreated: service.reserve})
        return await _consume("a transaction per batch of 500", run.bootstrap, handling.handle, EVENTS)


async def _singly(run: servers.Servers, database: str) -> Rate:
    """Eight connections, one transaction per message. Messages of one key stay on one connection."""
    async with AsyncExitStack() as stack:
        url = run.service_url(database, "inventory")
        pool = await stack.enter_async_context(postgres.pool(url, size=CONNECTIONS, name="bench"))
        handling = Handling(pool, "inventory", {OrderCreated: service.reserve})

        async def work(records: list[Record]) -> list[Record]:
            async def one_by_one(mine: list[Record]) -> None:
                for record in mine:
                    await handling.handle([record])

            lanes: list[list[Record]] = [[] for _ in range(CONNECTIONS)]
            for record in records:
                lanes[events.hash_of((record.key or b"").decode()) % CONNECTIONS].append(record)
            await asyncio.gather(*map(one_by_one, lanes))
            return []

        return await _consume("a transaction per message, 8 connections", run.bootstrap, work, SINGLE_EVENTS)


async def _measure(run: servers.Servers) -> None:
    databases = ("bench_consumer_batch", "bench_consumer_single")
    for database in databases:
        await run.migrate(database)
        await _stock(run.service_url(database, "inventory"))
    await _publish(run.service_url(databases[0], "orders"), run.bootstrap)
    collect_garbage_rarely()
    rates = [await _batched(run, databases[0]), await _singly(run, databases[1])]
    report.show("consumer: OrderCreated from Kafka becomes a reservation, an inbox row and an event", *rates)
    report.ratio("ratio", rates[0].per_second / rates[1].per_second, 4, 8)
    for database, rate in zip(databases, rates, strict=True):
        conn = await asyncpg.connect(run.url(database))
        tables = ("inbox", "reservations", "outbox")
        counts = [await conn.fetchval(f"select count(*) from inventory.{table}") for table in tables]
        held = await conn.fetchval("select sum(held) / 2 from inventory.stock")
        await conn.close()
        report.audit(f"{rate.name}: handled = inbox = reservations = events = held", rate.count, *counts, int(held))


def main(run: servers.Servers) -> None:
    uvloop.run(_measure(run))
