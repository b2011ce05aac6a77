"""The time from POST to CONFIRMED as a client sees it."""

import asyncio
import time

import uvloop

from bench import report, servers, shop
from bench.openloop import Generator
from bench.saga import all_final

RATES = (1, 10, 100, 500, 1000, 1500, 2000)
_LIMITS_MS = {100: (100, 40), 1000: (200, 80)}
SECONDS = 10.0


async def _run(made: shop.Shop, rate: int, *, follow: bool) -> tuple[Generator, float, float]:
    """Returns the generator, the CPU seconds per order, and the number of busy cores."""
    generator = Generator(made.port, follow=follow)
    cpu, started = made.cpu().total(), time.perf_counter()
    await generator.run(rate, SECONDS)
    if not follow:
        await asyncio.sleep(0.3)  # the last orders are not final yet
    used = made.cpu().total() - cpu
    return generator, used / len(generator.finished), used / (time.perf_counter() - started)


async def _measure(made: shop.Shop) -> None:
    print("\ncreate to CONFIRMED, as a client sees it (open loop)")
    placed = 0
    for rate in RATES:
        generator, cpu, cores = await _run(made, rate, follow=True)
        placed += len(generator.finished)
        p50, p99 = (report.percentile(generator.finished, p) * 1e3 for p in (50, 99))
        print(
            f"  {rate:>6,} /s: p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   failed {generator.failed}"
            f"   lag {generator.lag:.2f} s"
            f"   CPU {cpu * 1e6:7,.0f} us per order, {cores * 100:4.0f} % of one core",
            flush=True,
        )
        if rate in _LIMITS_MS:
            report.most(f"p99 at {rate:,} orders a second", p99, "ms", *_LIMITS_MS[rate])
    generator, cpu, _ = await _run(made, 100, follow=False)
    placed += len(generator.finished)
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
