"""What 1 ms between client, services, Postgres and Kafka costs: a delaying proxy on one of the three ways at a time.

All three ways always have a proxy, so its own cost is on both sides of each comparison.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import cast

import uvloop

from bench import openloop, saga, servers, shop
from contracts import topics
from local import ports

WAYS = ("client", "postgres", "kafka")
DELAY_SECONDS = 0.002
"""In each direction. Less would be lost in the milliseconds of the loop's timers."""
ROUNDS = 5
RATE, SECONDS = 50, 4.0
ORDERS = 2_000
PINGS = 100


@dataclass(frozen=True)
class Times:
    """Milliseconds until an order was accepted and until it was CONFIRMED (p50), and sagas a second at most."""

    accepted_ms: float
    confirmed_ms: float
    per_second: float


@dataclass(frozen=True)
class Proxy:
    """A process of `bench/proxy.py`."""

    port: int
    process: "subprocess.Popen[str]"

    def delay(self, seconds: float) -> None:
        assert self.process.stdin  # noqa: S101  # it was started with a pipe
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()


@contextmanager
def _proxy(target: int, port: int = 0) -> Iterator[Proxy]:
    port = port or ports.free_block(1)
    command = [sys.executable, "-m", "bench.proxy", str(port), str(target)]
    child = subprocess.Popen(command, cwd=servers.ROOT, stdin=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 20
        while not ports.is_answering(port):
            if time.monotonic() > until:
                raise SystemExit(f"the proxy on port {port} does not answer")
            time.sleep(0.02)
        yield Proxy(port, child)
    finally:
        child.terminate()
        child.wait(10)


async def _once(made: shop.Shop, port: int, placed: int) -> tuple[Times, int]:
    """Measure with the delays of now. `placed` orders are there before; returns how many are there after."""
    await asyncio.sleep(0.5)
    load = await asyncio.to_thread(openloop.run, port, RATE, SECONDS, follow=True)
    placed += load.answered.count
    await saga.all_final(made, placed)
    started = time.perf_counter()
    await saga.place([port], ORDERS, saga.CLIENTS)
    await saga.all_final(made, placed + ORDERS)
    per_second = ORDERS / (time.perf_counter() - started)
    return Times(load.answered.p50 * 1e3, load.finished.p50 * 1e3, per_second), placed + ORDERS


async def _measure(made: shop.Shop, proxies: Mapping[str, Proxy]) -> dict[str, list[Times]]:
    """All ways in turn, again and again: what the machine does besides meets all of them."""
    port, placed = proxies["client"].port, 5 * ORDERS
    await saga.place([port], placed, saga.CLIENTS)  # warm up
    await saga.all_final(made, placed)
    found: dict[str, list[Times]] = {way: [] for way in ("none", *WAYS)}
    for _ in range(ROUNDS):
        for way, times in found.items():
            for name, proxy in proxies.items():
                proxy.delay(DELAY_SECONDS if name == way else 0.0)
            once, placed = await _once(made, port, placed)
            times.append(once)
    return found


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


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
    target = ports.free_block(1)
    server = await asyncio.get_running_loop().create_server(_Echo, ports.LOOPBACK, target)
    with _proxy(target) as proxy:
        before = await _ping_ms(proxy.port)
        proxy.delay(DELAY_SECONDS)
        await asyncio.sleep(0.2)
        after = await _ping_ms(proxy.port)
    server.close()
    return after - before


def _middle(found: Sequence[Times], what: str) -> float:
    return statistics.median(float(getattr(times, what)) for times in found)


def _show(found: Mapping[str, Sequence[Times]], added_ms: float) -> None:
    print(
        f"\ndelay: each round trip on one way takes {added_ms:.1f} ms more; {RATE} orders a second, then as many as "
        f"go; medians of {ROUNDS} rounds"
    )
    names = ("accepted_ms", "confirmed_ms")
    for way, times in found.items():
        accepted, confirmed = (_middle(times, name) for name in names)
        more = [(_middle(times, name) - _middle(found["none"], name)) / added_ms for name in names]
        spread = f"({min(one.confirmed_ms for one in times):.0f} to {max(one.confirmed_ms for one in times):.0f})"
        print(
            f"  {way:<9} accepted {accepted:6.1f} ms   CONFIRMED {confirmed:6.1f} ms {spread:<12}"
            f"{_middle(times, 'per_second'):6,.0f} sagas a second   1 ms costs {more[0]:5.1f} ms and {more[1]:5.1f} ms"
        )


def main(run: servers.Servers) -> None:
    added = asyncio.run(_added_ms())
    kafka_port = ports.free_block(1)
    advertised = {"advertised.listeners": f"CLIENTS://{ports.LOOPBACK}:{kafka_port}"}
    asyncio.run(run.migrate("bench_delay"))
    with ExitStack() as stack:
        proxied = stack.enter_context(servers.another_broker(run, settings=advertised))
        kafka = stack.enter_context(_proxy(proxied.kafka_port, kafka_port))
        postgres = stack.enter_context(_proxy(run.postgres_port))
        asyncio.run(topics.create(f"{ports.LOOPBACK}:{kafka_port}", 4, 1))
        through = replace(proxied, postgres_port=postgres.port, kafka_port=kafka_port)
        made = stack.enter_context(shop.running(through, "bench_delay"))
        client = stack.enter_context(_proxy(made.port))
        direct = replace(made, url=run.url("bench_delay"))
        found = uvloop.run(_measure(direct, {"client": client, "postgres": postgres, "kafka": kafka}))
    _show(found, added)
