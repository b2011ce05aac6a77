"""What 1 ms between client, services, Postgres and Kafka costs: a delaying proxy on one of the three ways at a time.

All three ways always have a proxy, so its own cost is on both sides of each comparison.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

import uvloop

from bench import report, saga, servers, shop
from bench.openloop import Generator
from contracts import topics
from local import ports

WAYS = ("client", "postgres", "kafka")
DELAY_SECONDS = 0.002
"""In each direction. Less would be lost in the milliseconds of the loop's timers."""
RATE, SECONDS = 50, 8.0
ORDERS = 4_000
PINGS = 100


@dataclass(frozen=True)
class Times:
    """Milliseconds until an order was accepted and until it was CONFIRMED (p50), and sagas a second at most."""

    way: str
    accepted_ms: float
    confirmed_ms: float
    slow_ms: float
    per_second: float


@contextmanager
def _proxy(port: int, target: int, delay_seconds: float) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.proxy", str(port), str(target), str(delay_seconds)]
    child = subprocess.Popen(command, cwd=servers.ROOT)
    try:
        until = time.monotonic() + 20
        while not ports.is_answering(port):
            if time.monotonic() > until:
                raise SystemExit(f"the proxy on port {port} does not answer")
            time.sleep(0.02)
        yield port
    finally:
        child.terminate()
        child.wait(10)


async def _measure(way: str, made: shop.Shop, port: int) -> Times:
    await saga.place([port], saga.WARM_UP, 8)
    await saga.all_final(made, saga.WARM_UP)
    accepting, ending = Generator(port, follow=False), Generator(port)
    await accepting.run(RATE, SECONDS)
    await ending.run(RATE, SECONDS)
    placed = saga.WARM_UP + len(accepting.finished) + len(ending.finished)
    await saga.all_final(made, placed)
    started = time.perf_counter()
    await saga.place([port], ORDERS, saga.CLIENTS)
    await saga.all_final(made, placed + ORDERS)
    per_second = ORDERS / (time.perf_counter() - started)
    accepted, confirmed, slow = (
        report.percentile(times, percent) * 1e3
        for times, percent in ((accepting.finished, 50), (ending.finished, 50), (ending.finished, 99))
    )
    return Times(way, accepted, confirmed, slow, per_second)


def _delayed(run: servers.Servers, kafka_proxy: int, number: int, way: str) -> Times:
    """Measure with the delay on one way, or on none."""
    delay = dict.fromkeys(WAYS, 0.0) | ({way: DELAY_SECONDS} if way in WAYS else {})
    database = f"bench_delay_{number}"
    asyncio.run(run.migrate(database))
    with ExitStack() as stack:
        postgres = stack.enter_context(_proxy(ports.free_block(1), run.postgres_port, delay["postgres"]))
        stack.enter_context(_proxy(kafka_proxy, run.kafka_port, delay["kafka"]))
        through = replace(run, postgres_port=postgres, kafka_port=kafka_proxy)
        made = stack.enter_context(shop.running(through, database))
        client = stack.enter_context(_proxy(ports.free_block(1), made.port, delay["client"]))
        return uvloop.run(_measure(way, replace(made, url=run.url(database)), client))


async def _ping_ms(port: int) -> float:
    reader, writer = await asyncio.open_connection(ports.LOOPBACK, port)
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        times.append(time.perf_counter() - started)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return statistics.median(times) * 1e3


async def _added_ms() -> float:
    """How much longer a round trip really takes through a proxy with the delay than through one without."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    target = ports.free_block(1)
    server = await asyncio.start_server(echo, ports.LOOPBACK, target)
    found = []
    for delay in (0.0, DELAY_SECONDS):
        with _proxy(ports.free_block(1), target, delay) as port:
            found.append(await _ping_ms(port))
    server.close()
    return found[1] - found[0]


def _show(found: Sequence[Times], added_ms: float) -> None:
    print(f"\ndelay: {added_ms:.1f} ms more for each round trip on one way; {RATE} orders a second, then as many as go")
    base = {
        name: statistics.mean(getattr(times, name) for times in found if times.way == "none")
        for name in ("accepted_ms", "confirmed_ms", "per_second")
    }
    for times in found:
        accepted, confirmed = times.accepted_ms - base["accepted_ms"], times.confirmed_ms - base["confirmed_ms"]
        print(
            f"  {times.way:<9} accepted p50 {times.accepted_ms:6.1f} ms   CONFIRMED p50 {times.confirmed_ms:6.1f} ms, "
            f"p99 {times.slow_ms:6.1f} ms   {times.per_second:6,.0f} sagas a second   "
            f"1 ms costs {accepted / added_ms:5.1f} ms and {confirmed / added_ms:5.1f} ms"
        )


def main(run: servers.Servers) -> None:
    added = asyncio.run(_added_ms())
    kafka_proxy = ports.free_block(1)
    advertised = {"advertised.listeners": f"CLIENTS://{ports.LOOPBACK}:{kafka_proxy}"}
    with servers.another_broker(run, settings=advertised) as proxied:
        with _proxy(kafka_proxy, proxied.kafka_port, 0.0):
            asyncio.run(topics.create(f"{ports.LOOPBACK}:{kafka_proxy}", 4, 1))
        ways = ("none", *WAYS, "none")
        found = [_delayed(proxied, kafka_proxy, number, way) for number, way in enumerate(ways)]
    _show(found, added)
