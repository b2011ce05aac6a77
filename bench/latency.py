"""The time from POST to CONFIRMED as a client sees it.

The load generator is open-loop: it sends requests on schedule, however late the answers are.
"""

import asyncio
import json
import time

import uvloop

from bench import report, servers, shop
from bench.client import Connection
from bench.saga import all_final

RATES = (1, 10, 100, 500, 1000, 1500, 2000)
_LIMITS_MS = {100: (100, 40), 1000: (200, 80)}
SECONDS = 10.0
MAX_OPEN = 4000


class Generator:
    """Places orders at a fixed rate. With `follow`, it waits for the end of each order with `?wait=`."""

    def __init__(self, port: int, *, follow: bool = True) -> None:
        self._port, self._follows = port, follow
        self._free: list[Connection] = []
        self.latencies: list[float] = []
        self.failed = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Send on schedule, then wait at most 40 s for the open requests."""
        started, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(int(rate * seconds)):
            due = started + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if len(tasks) >= MAX_OPEN:
                self.failed += 1
                continue
            task = asyncio.create_task(self._follow(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=40)

    async def _follow(self, number: int, due: float) -> None:
        connection = self._free.pop() if self._free else await Connection.open(self._port)
        body = json.dumps({"userId": f"u{number % 1000}", "sku": "burger", "quantity": 1}).encode()
        status, answer = await connection.request("POST", "/v1/orders", body)
        if status == 202 and self._follows:
            order_id = json.loads(answer)["id"]
            status, answer = await connection.request("GET", f"/v1/orders/{order_id}?wait=30")
        if status == 202 or (status == 200 and json.loads(answer)["status"] == "CONFIRMED"):
            self.latencies.append(time.perf_counter() - due)
        else:
            self.failed += 1
        self._free.append(connection)


async def _run(made: shop.Shop, rate: int, *, follow: bool) -> tuple[Generator, float, float]:
    """Returns the generator, the CPU seconds per order, and the number of busy cores."""
    generator = Generator(made.port, follow=follow)
    cpu, started = made.cpu().total(), time.perf_counter()
    await generator.run(rate, SECONDS)
    if not follow:
        await asyncio.sleep(0.3)  # the last orders are not final yet
    used = made.cpu().total() - cpu
    return generator, used / len(generator.latencies), used / (time.perf_counter() - started)


async def _measure(made: shop.Shop) -> None:
    print("\ncreate to CONFIRMED, as a client sees it (open loop)")
    placed = 0
    for rate in RATES:
        generator, cpu, cores = await _run(made, rate, follow=True)
        placed += len(generator.latencies)
        p50, p99 = (report.percentile(generator.latencies, p) * 1e3 for p in (50, 99))
        print(
            f"  {rate:>6,} /s: p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   failed {generator.failed}"
            f"   CPU {cpu * 1e6:7,.0f} us per order, {cores * 100:4.0f} % of one core",
            flush=True,
        )
        if rate in _LIMITS_MS:
            report.most(f"p99 at {rate:,} orders a second", p99, "ms", *_LIMITS_MS[rate])
    generator, cpu, _ = await _run(made, 100, follow=False)
    placed += len(generator.latencies)
    report.most("CPU per confirmed order at 100 a second, no reader waits", cpu * 1e3, "ms", 5, 2)
    found = await all_final(made, placed)
    report.audit("accepted = CONFIRMED", placed, found["CONFIRMED"])


async def _idle(made: shop.Shop) -> None:
    await asyncio.sleep(3)
    cpu = made.cpu().total()
    await asyncio.sleep(10)
    report.most("idle shop, share of one core", (made.cpu().total() - cpu) * 10, "%", 15, 5)


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_latency"))
    with shop.running(run, "bench_latency") as made:
        uvloop.run(_measure(made))
        asyncio.run(_idle(made))
