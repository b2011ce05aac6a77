"""A million events beside a transaction that stays open: the relay's time and the sizes of its tables stay flat.

An open snapshot keeps Postgres from cleaning up. Every turn moves the cursors, so rows of `outbox_lanes` get ten
thousand old versions.
"""

import asyncio
import time
from dataclasses import dataclass

import asyncpg
import uvloop

from bench import report, servers
from contracts.orders import TOPIC
from shared.delivery import outbox, relay
from shared.delivery.relay import Relay
from shared.postgres import Plain
from shared.process.tasks import collect_garbage_rarely
from tests.builders import order_created

STAGES, TURNS, ROWS = 10, 500, 200
POLLS = 200
SMALL_TABLES = ("outbox_lanes", "outbox_relays", "outbox_refused")


@dataclass(frozen=True)
class Stage:
    """The cost of a hundred thousand events, and the sizes of the tables afterwards."""

    cpu_us: float
    poll_ms: float
    event_bytes: float
    small_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.cpu_us:6.1f} us of the relay for an event   {self.poll_ms:5.2f} ms for an idle poll   "
            f"{self.event_bytes:5.0f} bytes an event   {self.small_bytes / 1024:5.0f} KiB of cursors"
        )


_EVENT_BYTES = """
select sum(pg_total_relation_size(relid)) / (select count(*) from outbox) from pg_partition_tree('outbox')
"""
_SMALL_BYTES = "select sum(pg_total_relation_size(name::regclass))::bigint from unnest($1::text[]) name"


async def _poll_ms(made: Relay) -> float:
    times = []
    for _ in range(POLLS):
        started = time.perf_counter()
        await made.run_once()
        times.append(time.perf_counter() - started)
    return report.percentile(times, 50) * 1000


async def _stage(conn: Plain, made: Relay, n: int) -> Stage:
    first = n * TURNS * ROWS + 1
    published, cpu = 0, 0.0
    for turn in range(TURNS):
        start = first + turn * ROWS
        async with conn.transaction():
            await outbox.append(conn, [order_created(start + k, note="soak") for k in range(ROWS)])
        before = time.process_time()
        while found := await made.run_once():
            published += found
        cpu += time.process_time() - before
    report.audit("written = published", TURNS * ROWS, published)
    event, small = await conn.fetchval(_EVENT_BYTES), await conn.fetchval(_SMALL_BYTES, SMALL_TABLES)
    return Stage(cpu / published * 1e6, await _poll_ms(made), float(event), small)


async def _measure(run: servers.Servers) -> None:
    await run.migrate("bench_soak")
    url = run.service_url("bench_soak", "orders")
    conn, other = await asyncpg.connect(url), await asyncpg.connect(url)
    made = Relay(url, run.bootstrap, service="orders", owner="soak")
    relay._ADVANCE_EVERY_SECONDS = 0.0  # noqa: SLF001 - so that each turn leaves old versions of the cursors
    await _stage(conn, made, STAGES)  # warm up
    collect_garbage_rarely()
    stages = []
    async with other.transaction(isolation="repeatable_read", readonly=True):
        await other.execute("select count(*) from orders")
        for n in range(STAGES):
            stages.append(await _stage(conn, made, n))
            print(f"  {n + 1:>2}: {stages[-1]}", flush=True)
    await asyncio.gather(made.close(), conn.close(), other.close())
    first, last = stages[0], stages[-1]
    print(f"\nsoak: {STAGES * TURNS * ROWS:,} events on {TOPIC}, beside a transaction that stays open")
    report.most("relay time for an event, last compared with first", last.cpu_us / first.cpu_us, "times", 1.3, 1.1)
    report.most("idle poll, last compared with first", last.poll_ms / first.poll_ms, "times", 2.0, 1.2)
    report.most(
        "bytes for an event, last compared with first", last.event_bytes / first.event_bytes, "times", 1.2, 1.05
    )


def main(run: servers.Servers) -> None:
    uvloop.run(_measure(run))
