"""The time from POST to CONFIRMED as a client sees it, and the orders that end in time, from 1 a second to overload."""

import asyncio
import time
from dataclasses import dataclass

from bench import curve, openloop, overload, report, servers, shop
from bench.curve import Point
from bench.openloop import Load
from bench.saga import all_final

RATES = (1, 10, 100, 500, 1000, 1500, 2000, 3000, 4000, 6000)
_LIMITS_MS = {100: (100, 40), 1000: (200, 80)}
SECONDS = 10.0


@dataclass(frozen=True)
class _Run:
    """A load, the orders that ended as CONFIRMED, and the seconds and CPU seconds until the last one ended."""

    load: Load
    confirmed: int
    seconds: float
    cpu: float

    @classmethod
    def of(cls, made: shop.Shop, rate: int, *, follow: bool) -> "_Run":
        cpu = made.cpu().total()
        load, gained, seconds = overload.finished(made, lambda: openloop.run(made.port, rate, SECONDS, follow=follow))
        return cls(load, gained["CONFIRMED"], max(SECONDS, seconds), made.cpu().total() - cpu)


def _measure(made: shop.Shop) -> int:
    """Returns the number of accepted orders."""
    print("\ncreate to CONFIRMED, as a client sees it (open loop)")
    placed, points = 0, list[Point]()
    for rate in RATES:
        run = _Run.of(made, rate, follow=True)
        load, cpu, cores = run.load, run.cpu / run.confirmed, run.cpu / run.seconds
        placed += load.ends["POST 202"]
        point = _point(rate, run)
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
    run = _Run.of(made, 100, follow=False)
    report.most("CPU per confirmed order at 100 a second, no reader waits", run.cpu / run.confirmed * 1e3, "ms", 5, 2)
    return placed + run.load.ends["POST 202"]


def _point(rate: int, run: _Run) -> Point:
    """Until the last order has ended: the rest of a backlog that ends later does not count as more."""
    load = run.load
    return Point(
        rate,
        load.finished.p50,
        load.finished.p99,
        run.confirmed / run.seconds,
        load.ends["POST refused"] / load.seconds,
        load.slowest,
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
