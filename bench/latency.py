"""The time from POST to CONFIRMED as a client sees it, and the orders that end in time, from 1 a second to overload."""

import asyncio
import time

from bench import curve, openloop, report, servers, shop
from bench.curve import Point
from bench.openloop import Load
from bench.saga import all_final

RATES = (1, 10, 100, 500, 1000, 1500, 2000, 3000, 4000, 6000)
_LIMITS_MS = {100: (100, 40), 1000: (200, 80)}
SECONDS = 10.0


def _run(made: shop.Shop, rate: int, *, follow: bool) -> tuple[Load, float, float]:
    """Returns the load, the CPU seconds per order, and the number of busy cores."""
    cpu, started = made.cpu().total(), time.perf_counter()
    load = openloop.run(made.port, rate, SECONDS, follow=follow)
    if not follow:
        time.sleep(0.3)  # the last orders are not final yet
    used = made.cpu().total() - cpu
    return load, used / max(1, load.finished.count), used / (time.perf_counter() - started)


def _measure(made: shop.Shop) -> int:
    """Returns the number of accepted orders."""
    print("\ncreate to CONFIRMED, as a client sees it (open loop)")
    placed, points = 0, list[Point]()
    for rate in RATES:
        load, cpu, cores = _run(made, rate, follow=True)
        placed += load.ends["POST 202"]
        point = _point(rate, load)
        points.append(point)
        print(
            f"  {rate:>6,} /s: p50 {point.p50 * 1e3:7.1f} ms   p99 {point.p99 * 1e3:7.1f} ms"
            f"   CONFIRMED {point.confirmed:7,.1f} /s   slowest answer {point.slowest:5.2f} s"
            f"   CPU {cpu * 1e6:7,.0f} us per order, {cores * 100:4.0f} % of one core\n            {load}",
            flush=True,
        )
        if rate in _LIMITS_MS:
            report.most(f"p99 at {rate:,} orders a second", load.finished.p99 * 1e3, "ms", *_LIMITS_MS[rate])
        time.sleep(2)
    (servers.FOLDER / "curve.svg").write_text(curve.svg(points))
    print(f"\n{curve.table(points)}\n\nThe curve is in {servers.FOLDER / 'curve.svg'}")
    load, cpu, _ = _run(made, 100, follow=False)
    report.most("CPU per confirmed order at 100 a second, no reader waits", cpu * 1e3, "ms", 5, 2)
    return placed + load.ends["POST 202"]


def _point(rate: int, load: Load) -> Point:
    """What ended within the time of the load; the rest of a backlog that ends later does not count as more."""
    finished = load.finished
    seconds = max(SECONDS, load.seconds)
    return Point(
        rate, finished.p50, finished.p99, finished.count / seconds, load.ends["POST refused"] / seconds, load.slowest
    )


async def _check(made: shop.Shop, placed: int) -> None:
    found = await all_final(made, placed)
    report.audit("accepted = CONFIRMED", placed, found["CONFIRMED"])


def _idle(made: shop.Shop) -> None:
    time.sleep(3)
    cpu = made.cpu().total()
    time.sleep(10)
    report.most("idle shop, share of one core", (made.cpu().total() - cpu) * 10, "%", 15, 5)


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_latency"))
    with shop.running(run, "bench_latency") as made:
        asyncio.run(_check(made, _measure(made)))
        _idle(made)
