"""Orders that waited while the relay was down: how fresh orders fare beside them, and how fast the old ones end."""

import asyncio
import time
from collections.abc import Mapping

import asyncpg
import uvloop

from bench import openloop, report, servers, shop
from orders.domain import Request
from orders.placement import Placement

FEW, MANY = 120_000, 1_000_000
RATE = 1000
SECONDS = 10.0
_CHUNK = 1000
_LIMIT_SECONDS = 3.1
_OLD = "select count(*) from orders.orders where id <= $1 and status <> 'PENDING'"
_LATE = "select count(*) from orders.orders where reason = 'deadline_passed'"


async def _fill(url: str, orders: int, deadline_seconds: float) -> None:
    """Write orders and their events as the API writes them, in larger batches."""
    placement = Placement(url, deadline_seconds)
    conn = await asyncpg.connect(url)
    for start in range(0, orders, _CHUNK):
        await placement.write(conn, [Request(f"u{n % 1000}", "burger", 1) for n in range(start, start + _CHUNK)])
    await conn.close()


async def _value(made: shop.Shop, query: str, *arguments: object) -> int:
    conn = await asyncpg.connect(made.url)
    found: int = await conn.fetchval(query, *arguments)
    await conn.close()
    return found


class _Watch:
    """Counts how many of the orders that waited have ended."""

    def __init__(self, made: shop.Shop, orders: int) -> None:
        self._made, self._orders = made, orders

    def ended(self) -> int:
        return asyncio.run(_value(self._made, _OLD, self._orders))

    def rate(self, seconds: float) -> float:
        """Ended orders a second, while nothing else comes."""
        before, started = self.ended(), time.perf_counter()
        time.sleep(seconds)
        return (self.ended() - before) / (time.perf_counter() - started)

    def until_some_end(self) -> None:
        while not self.ended():
            time.sleep(0.2)


def _beside(made: shop.Shop, old: _Watch) -> tuple[openloop.Load, float]:
    """Offer fresh orders. Returns what became of them, and how many old ones ended a second."""
    before, started = old.ended(), time.perf_counter()
    load = openloop.run(made.port, RATE, SECONDS)
    return load, (old.ended() - before) / (time.perf_counter() - started)


def _measure(run: servers.Servers, orders: int, deadline_seconds: float) -> None:
    database = "bench_backlog"
    asyncio.run(run.migrate(database))
    uvloop.run(_fill(run.service_url(database, "orders"), orders, deadline_seconds))

    def environment(_: str) -> Mapping[str, str]:
        return {"ORDER_DEADLINE_SECONDS": str(deadline_seconds)}

    with shop.running(run, database, environment) as made:
        print(f"\n{orders:,} orders wait when everything starts; then {RATE:,} POSTs a second for {SECONDS:.0f} s")
        old = _Watch(made, orders)
        load, _ = _beside(made, old)
        _show(load, is_small=orders == FEW)
        if orders == MANY:
            _compare(made, old)
        else:
            _finish(made)


def _show(load: openloop.Load, *, is_small: bool) -> None:
    print(f"  {load}\n  POST answered in p50 {load.answered.p50 * 1e3:.1f} ms, p99 {load.answered.p99 * 1e3:.1f} ms")
    report.most("slowest answer", load.slowest, "s", _LIMIT_SECONDS, 1)
    if is_small:
        report.most("p99 of fresh POSTs", load.answered.p99 * 1e3, "ms", 300, 100)
        report.most("fresh POSTs that were not accepted", load.failed, "", 0, 0)


def _compare(made: shop.Shop, old: _Watch) -> None:
    """How fast the old orders end with fresh ones beside them, and without, before and after."""
    old.until_some_end()
    before = old.rate(SECONDS)
    load, beside = _beside(made, old)
    _show(load, is_small=False)
    after = old.rate(SECONDS)
    print(f"  old orders that end: {before:,.0f} a second alone, {beside:,.0f} beside fresh ones, {after:,.0f} alone")
    report.ratio("drain beside fresh orders / alone", beside / ((before + after) / 2), 0.9, 1)


def _finish(made: shop.Shop) -> None:
    started = time.perf_counter()
    while asyncio.run(_value(made, "select count(*) from orders.orders where status = 'PENDING'")):
        time.sleep(0.2)
        if time.perf_counter() - started > 120:
            raise SystemExit("not all orders ended")
    report.most("orders past their deadline", asyncio.run(_value(made, _LATE)), "", 0, 0)


def main(run: servers.Servers) -> None:
    _measure(run, FEW, 60.0)
    _measure(run, MANY, 3600.0)
