"""More requests than the shop can do: each gets exactly one recorded end, and what was accepted ends in time."""

import asyncio
import time
from collections import Counter

import asyncpg

from bench import openloop, report, saga, servers, shop

SECONDS = 10.0
_BEST_ORDERS = 20_000
_LIMIT_SECONDS = 3.1


def _flood(made: shop.Shop, rate: int, best: float, *, follow: bool) -> None:
    before, started = asyncio.run(_ended(made)), time.perf_counter()
    load = openloop.run(made.port, rate, SECONDS, follow=follow)
    asyncio.run(_all_final(made))
    took = time.perf_counter() - started
    gained = asyncio.run(_ended(made)) - before
    print(
        f"\n  {rate:,} POSTs a second for {SECONDS:.0f} s{', each followed by ?wait=' if follow else ''}: {load}\n"
        f"    POST answered in p50 {load.answered.p50:.3f} s, p99 {load.answered.p99:.3f} s;"
        f" {load.connections:,} connections; {dict(gained)} after {took:.1f} s",
        flush=True,
    )
    report.most("slowest answer", load.slowest, "s", _LIMIT_SECONDS, 1)
    report.most("requests without an answer", sum(n for end, n in load.ends.items() if end.endswith(_LOST)), "", 0, 0)
    report.most("orders past their deadline", gained["deadline_passed"], "", 0, 0)
    report.ratio("CONFIRMED a second, against the best rate", gained["CONFIRMED"] / took / best, 0.9, 1)
    time.sleep(5)
    calm = openloop.run(made.port, 100, 5.0)
    report.most("p99 at 100 orders a second, 5 s later", calm.answered.p99 * 1e3, "ms", 200, 100)


_LOST = ("reset", "timed out")


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


def main(run: servers.Servers) -> None:
    for apart in (False, True):
        _overload(run, apart=apart)


def _overload(run: servers.Servers, *, apart: bool) -> None:
    print(f"\noverload, the API of orders {'apart from the rest' if apart else 'in one process with the rest'}")
    asyncio.run(run.migrate("bench_overload"))
    with shop.running(run, "bench_overload", layout=shop.APART if apart else shop.WHOLE) as made:
        done = asyncio.run(saga.finish(made, _BEST_ORDERS))
        best = _BEST_ORDERS / done.seconds
        print(f"more than two cores can do, generator included. The best rate is {best:,.0f} a second")
        for rate, follow in ((6000, False), (3000, True)):
            _flood(made, rate, best, follow=follow)
