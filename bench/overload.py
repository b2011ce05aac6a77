"""More requests than the shop can do: each gets exactly one recorded end, and what was accepted ends in time.

The generator is open-loop. If it is late itself, the run is void, because then it did not offer what it says.
"""

import asyncio
import json
import time
from collections import Counter

import asyncpg
import uvloop

from bench import report, servers, shop
from bench.client import Connection
from bench.latency import Generator

SECONDS = 10.0
_WAIT_SECONDS = 30
_VOID_SECONDS = 0.5
_GIVE_UP_SECONDS = 45.0


class Flood:
    """Requests on schedule. `ends` counts how each ended: by its status, `refused`, `reset` or `no answer`."""

    def __init__(self, port: int, *, follow: bool) -> None:
        self._port, self._follows = port, follow
        self._free: list[Connection] = []
        self.ends: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.lag = 0.0

    async def run(self, rate: float) -> None:
        started, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(int(rate * SECONDS)):
            due = started + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            self.lag = max(self.lag, -early)
            task = asyncio.create_task(self._one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        late = (await asyncio.wait(tasks, timeout=_GIVE_UP_SECONDS))[1] if tasks else set()
        self.ends["no answer"] += len(late)
        for task in late:
            task.cancel()

    async def _one(self, number: int, due: float) -> None:
        """Place an order. If it is to be followed, wait for its end too, which is a request of its own."""
        body = json.dumps({"userId": f"u{number % 1000}", "sku": "burger", "quantity": 1}).encode()
        answer = await self._ask("POST", "/v1/orders", body, due)
        if answer and self._follows:
            path = f"/v1/orders/{json.loads(answer)['id']}?wait={_WAIT_SECONDS}"
            await self._ask("GET", path, b"", time.perf_counter(), waits=True)

    async def _ask(self, method: str, path: str, body: bytes, due: float, *, waits: bool = False) -> bytes:
        """Returns the answer if it is a success, else nothing."""
        try:
            connection = self._free.pop() if self._free else await Connection.open(self._port)
            status, answer = await connection.request(method, path, body)
        except OSError:
            self.ends[f"{method} reset"] += 1
            return b""
        self._free.append(connection)
        if not waits:
            self.seconds.append(time.perf_counter() - due)
        is_refused = status == 503 and b"/problems/refused" in answer
        self.ends[f"{method} {'refused' if is_refused else status}"] += 1
        return answer if status < 300 else b""


async def _flood(made: shop.Shop, rate: int, *, follow: bool) -> None:
    flood = Flood(made.port, follow=follow)
    before = await _ended(made)
    started = time.perf_counter()
    await flood.run(rate)
    offered = time.perf_counter() - started
    await _all_final(made)
    after = await _ended(made)
    done = after["CONFIRMED"] - before["CONFIRMED"]
    p50, p99, worst = (report.percentile(flood.seconds, p) for p in (50, 99, 100))
    print(
        f"\n  {rate:,} POSTs a second for {SECONDS:.0f} s{', each followed by ?wait=' if follow else ''}:"
        f" {dict(sorted(flood.ends.items()))}\n"
        f"    answered in p50 {p50:.3f} s, p99 {p99:.3f} s, slowest {worst:.3f} s; the generator was at most"
        f" {flood.lag:.3f} s late{' (VOID)' if flood.lag > _VOID_SECONDS else ''}\n"
        f"    CONFIRMED {done:,} in {time.perf_counter() - started:.1f} s"
        f" ({done / (time.perf_counter() - started):,.0f} a second; {offered:.1f} s until the last answer),"
        f" past their deadline {after['deadline_passed'] - before['deadline_passed']:,}",
        flush=True,
    )
    await asyncio.sleep(5)
    calm = Generator(made.port, follow=False)
    await calm.run(100, 5.0)
    report.most("p99 at 100 orders a second, 5 s later", report.percentile(calm.latencies, 99) * 1e3, "ms", 200, 100)


async def _ended(made: shop.Shop) -> Counter[str]:
    conn = await asyncpg.connect(made.url)
    rows = await conn.fetch("select coalesce(reason, status) as how, count(*) as n from orders.orders group by 1")
    await conn.close()
    return Counter({row["how"]: row["n"] for row in rows})


async def _all_final(made: shop.Shop) -> None:
    until = time.monotonic() + 90.0
    while (await _ended(made))["PENDING"]:
        if time.monotonic() > until:
            raise SystemExit(f"not all orders ended: {await _ended(made)}")
        await asyncio.sleep(0.2)


async def _measure(made: shop.Shop) -> None:
    print("overload: more than two cores can do, generator included")
    await Generator(made.port, follow=False).run(200, 2.0)  # warm up
    await _all_final(made)
    for rate, follow in ((6000, False), (3000, True)):
        await _flood(made, rate, follow=follow)


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_overload"))
    with shop.running(run, "bench_overload") as made:
        uvloop.run(_measure(made))
