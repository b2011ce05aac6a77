"""From POST to CONFIRMED as a client sees it, by an open-loop generator: it sends on time, however late answers are."""

import asyncio
import json
import time

import uvloop

from bench import report, servers, shop
from bench.client import Connection
from bench.saga import all_final

RATES = (100, 1000)
SECONDS = 10.0
MAX_OPEN = 4000


class Generator:
    """Orders at a fixed rate; each is followed to its end by `?wait=`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[Connection] = []
        self.latencies: list[float] = []
        self.failed = 0

    async def run(self, rate: float, seconds: float) -> None:
        """Send on schedule, then wait for the rest."""
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
        if status == 202:
            order_id = json.loads(answer)["id"]
            status, answer = await connection.request("GET", f"/v1/orders/{order_id}?wait=30")
        if status == 200 and json.loads(answer)["status"] == "CONFIRMED":
            self.latencies.append(time.perf_counter() - due)
        else:
            self.failed += 1
        self._free.append(connection)


async def _measure(made: shop.Shop) -> None:
    print("\ncreate to CONFIRMED, as a client sees it (open loop)")
    placed = 0
    for rate in RATES:
        generator = Generator(made.port)
        cpu, started = made.cpu().total(), time.perf_counter()
        await generator.run(rate, SECONDS)
        seconds = time.perf_counter() - started
        used, done = made.cpu().total() - cpu, len(generator.latencies)
        placed += done
        p50, p99 = (report.percentile(generator.latencies, p) * 1e3 for p in (50, 99))
        print(
            f"  {rate:>6,} /s: p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   failed {generator.failed}"
            f"   CPU {used / done * 1e6:7.0f} us an order, {used / seconds * 100:4.0f} % of one core"
        )
        if rate == 100:
            report.most("p99 at 100 orders a second", p99, "ms", 100, 40)
            report.most("CPU per confirmed order at 100 a second, followers included", used / done * 1e3, "ms", 5, 2)
        if rate == 1000:
            report.most("p99 at 1,000 orders a second", p99, "ms", 200, 80)
    found = await all_final(made, placed)
    report.audit("followed to CONFIRMED = CONFIRMED", placed, found["CONFIRMED"])


async def _idle(made: shop.Shop) -> None:
    await asyncio.sleep(3)
    cpu = made.cpu().total()
    await asyncio.sleep(10)
    report.most("idle shop, of one core", (made.cpu().total() - cpu) * 10, "%", 15, 5)


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_latency"))
    with shop.running(run, "bench_latency") as made:
        uvloop.run(_measure(made))
        asyncio.run(_idle(made))
