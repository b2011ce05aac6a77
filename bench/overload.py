"""More requests than the shop can do: each gets exactly one recorded end, and what was accepted ends in time.

The generator is open-loop. If it is late itself, the run is void, because then it did not offer what it says.
"""

import asyncio
import time
from collections import Counter

import asyncpg
import uvloop

from bench import report, servers, shop
from bench.openloop import Generator

SECONDS = 10.0
_VOID_SECONDS = 0.5


async def _flood(made: shop.Shop, rate: int, *, follow: bool) -> None:
    flood = Generator(made.port, follow=follow)
    before = await _ended(made)
    started = time.perf_counter()
    await flood.run(rate, SECONDS)
    offered = time.perf_counter() - started
    await _all_final(made)
    after = await _ended(made)
    done = after["CONFIRMED"] - before["CONFIRMED"]
    p50, p99, worst = (report.percentile(flood.answered, p) for p in (50, 99, 100))
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
    report.most("p99 at 100 orders a second, 5 s later", report.percentile(calm.answered, 99) * 1e3, "ms", 200, 100)


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
