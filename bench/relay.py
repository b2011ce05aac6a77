"""Draining an outbox into Kafka: from 100 k and 1 M rows, beside an old snapshot, and against Kafka's own perf-test."""

import re
import subprocess
import time
from pathlib import Path

import asyncpg
import uvloop

from bench import report, servers
from bench.report import Rate
from contracts.orders import TOPIC, OrderCreated
from shared.delivery import events
from shared.delivery.relay import Relay
from shared.postgres import Plain
from shared.process.tasks import collect_garbage_rarely
from tests.builders import order_created

SMALL, LARGE = 100_000, 1_000_000
_CHUNK = 50_000
_OTHER_TOPIC = "users.events"

# Rows as `outbox.append` writes them, but made by Postgres: the order's id is the only thing that differs.
_FILL = """
insert into outbox (lane, hash, event_id, topic, key, type, head, value)
select h % 4, h, gen_random_uuid(), $3, k, $4,
       convert_to(gen_random_uuid()::text || '2026-11-21T01:12:04.255395Z' || $6, 'utf8'),
       convert_to(replace($5, '4711', k), 'utf8')
  from (select n::text k, (hashtext(n::text) & 2147483647) h from generate_series($1::int, $2::int) n) s
"""
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def _fill(conn: Plain, first: int, rows: int) -> None:
    value = order_created(4711, note="bench", product={"sku": "burger", "name": "Burger", "price_cents": 850})
    for start in range(first, first + rows, _CHUNK):
        text = value.model_dump_json()
        await conn.execute(_FILL, start, start + _CHUNK - 1, TOPIC, OrderCreated.__name__, text, _TRACE)


async def _settle(run: servers.Servers) -> None:
    """Do what time does to a backlog: without it the drain also pays for the bulk load before it (a fifth)."""
    admin = await asyncpg.connect(run.url("bench_relay"))
    await admin.execute("vacuum orders.outbox")
    await admin.execute("checkpoint")
    await admin.close()


async def _drain(name: str, relay: Relay) -> Rate:
    started, cpu, rows = time.perf_counter(), time.process_time(), 0
    while found := await relay.run_once():
        rows += found
    return Rate(name, rows, time.perf_counter() - started, cpu_seconds=time.process_time() - cpu)


def _tool(run: servers.Servers, name: str, *arguments: str) -> str:
    command = run.broker.tool(name, *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def _records(run: servers.Servers) -> int:
    lines = _tool(run, "org.apache.kafka.tools.GetOffsetShell", "--topic", TOPIC)
    return sum(int(line.rsplit(":", 1)[1]) for line in lines.split())


def _perf_test(run: servers.Servers, records: int, *properties: str) -> Rate:
    """Kafka's own producer with records as large as ours: value, key and headers together, as random bytes."""
    encoded = events.encode(order_created(4711))
    static = events.static_headers(encoded.type, "/quickbite/orders")
    headers = events.headers(static, b"4711", encoded.head + _TRACE.encode())
    size = len(encoded.value) + 4 + sum(len(name) + len(value) for name, value in headers)
    output = _tool(
        run,
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", _OTHER_TOPIC, "--num-records", str(records), "--throughput", "-1", "--record-size", str(size)),
        *("--producer-props", f"bootstrap.servers={run.bootstrap}", "acks=all", *properties),
    )
    per_second = float(re.findall(r"([0-9.]+) records/sec", output)[-1])
    name = f"kafka-producer-perf-test, {size} bytes a record {' '.join(properties)}"
    return Rate(name, records, records / per_second)


async def _measure(run: servers.Servers) -> list[Rate]:
    await run.migrate("bench_relay")
    url = run.service_url("bench_relay", "orders")
    conn = await asyncpg.connect(url)
    relay = Relay(url, run.bootstrap, service="orders", owner="bench")
    await _fill(conn, 1, SMALL)
    rates = [await _drain("100 k rows, everything cold", relay)]
    collect_garbage_rarely()
    first = SMALL + 1
    for name, rows in (("100 k rows", SMALL), ("1 M rows", LARGE)):
        await _fill(conn, first, rows)
        await _settle(run)
        first += rows
        rates.append(await _drain(name, relay))
    other = await asyncpg.connect(url)
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("select count(*) from orders")
        await _fill(conn, first, LARGE)
        await _settle(run)
        rates.append(await _drain("1 M rows, beside an old snapshot", relay))
    await other.close()
    await relay.close()
    written = await conn.fetchval("select count(*) from outbox")
    await conn.close()
    report.show("relay drain, one process, to the real broker", *rates)
    report.audit("drained = outbox rows = Kafka records", sum(r.count for r in rates), written, _records(run))
    return rates


def main(run: servers.Servers) -> None:
    Path(servers.FOLDER).mkdir(parents=True, exist_ok=True)
    _, small, large, beside = uvloop.run(_measure(run))
    perf = _perf_test(run, LARGE)
    print(perf)
    print(_perf_test(run, LARGE, "compression.type=zstd"))
    report.ratio("1 M rows, thousands a second", large.per_second / 1000, 80, 150)
    report.ratio("against kafka-producer-perf-test", large.per_second / perf.per_second, 0.4, 0.75)
    report.flat("100 k against 1 M rows", small.per_second / large.per_second)
    report.flat("beside an old snapshot against 1 M rows", beside.per_second / large.per_second)
