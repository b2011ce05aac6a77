"""More requests than the shop can do: each gets exactly one recorded end, and what was accepted ends in time."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import asyncpg

from bench import gateway, openloop, report, servers, shop
from local import ports

SECONDS = 10.0
_BEST_ORDERS = 15_000
_CLIENTS = {False: 64, True: 512}
"""Of the best rate: with more or fewer clients that wait for the end of each order, fewer orders end."""
_LIMIT_SECONDS = 3.1
_LOST = ("reset", "timed out")
_DATABASE = "bench_overload"


def _floods(made: shop.Shop, port: int, header: str = "") -> None:
    openloop.closed(port, 2_000, 64, header=header)  # warm up
    for rate, follow in ((6000, False), (3000, True)):
        _flood(made, port, rate, header, follow=follow)


def _flood(made: shop.Shop, port: int, rate: int, header: str, *, follow: bool) -> None:
    """Offer more orders than the shop can do. The best rate is measured before and after, with the same requests."""
    before = _best(made, port, header, follow=follow)
    load, gained, took = finished(made, lambda: openloop.run(port, rate, SECONDS, follow=follow, header=header))
    time.sleep(5)
    calm = openloop.run(port, 100, 5.0, header=header)
    best = (before + _best(made, port, header, follow=follow)) / 2
    print(
        f"\n  {rate:,} POSTs a second for {SECONDS:.0f} s{', each followed by ?wait=' if follow else ''}: {load}\n"
        f"    POST answered in p50 {load.answered.p50:.3f} s, p99 {load.answered.p99:.3f} s;"
        f" {load.connections:,} connections; {dict(gained)} after {took:.1f} s; the best rate is {best:,.0f} a second",
        flush=True,
    )
    report.most("slowest answer", load.slowest, "s", _LIMIT_SECONDS, 1)
    report.most("requests without an answer", sum(n for end, n in load.ends.items() if end.endswith(_LOST)), "", 0, 0)
    report.most("orders past their deadline", gained["deadline_passed"], "", 0, 0)
    report.ratio("CONFIRMED a second, against the best rate", gained["CONFIRMED"] / took / best, 0.9, 1)
    report.most("p99 at 100 orders a second, 5 s later", calm.answered.p99 * 1e3, "ms", 200, 100)


def _best(made: shop.Shop, port: int, header: str, *, follow: bool) -> float:
    """CONFIRMED a second in a closed loop, with the same generator."""
    clients = _CLIENTS[follow]
    _, gained, took = finished(made, lambda: openloop.closed(port, _BEST_ORDERS, clients, follow=follow, header=header))
    return gained["CONFIRMED"] / took


def finished(made: shop.Shop, place: Callable[[], openloop.Load]) -> tuple[openloop.Load, Counter[str], float]:
    """Place orders, and wait until the last one has ended. Returns how they ended, and the seconds in total."""
    before, started = asyncio.run(_ended(made)), time.perf_counter()
    load = place()
    asyncio.run(_all_final(made))
    return load, asyncio.run(_ended(made)) - before, time.perf_counter() - started


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
    _overload(run, "in one process with the rest", shop.WHOLE)
    _overload(run, "apart from the rest", shop.APART)
    _behind_the_gateway(run)


def _overload(run: servers.Servers, where: str, layout: Sequence[shop.Part]) -> None:
    print(f"\noverload, the API of orders {where}: more than two cores can do, generator included")
    asyncio.run(run.migrate(_DATABASE))
    with shop.running(run, _DATABASE, layout=layout) as made:
        _floods(made, made.port)


def _behind_the_gateway(run: servers.Servers) -> None:
    print("\noverload through the gateway")
    asyncio.run(run.migrate(_DATABASE))
    auth = ports.free_block(1)
    with (
        shop.running(run, _DATABASE, lambda _: gateway.keys_of(auth)) as made,
        gateway.in_front(run, _DATABASE, made.port, auth) as front,
    ):
        header = f"Authorization: Bearer {gateway.token_of(front.gateway)}"
        _floods(made, front.gateway, header)
