"""The CPU of an order, part by part; and one, two and four processes of everything, after which the checker runs.

All processes share the cores of one machine. So more processes are not faster here. What must stay true: every
invariant of `tests/acceptance/checker.py` holds with any number of processes. The measured points go into
`.local/bench/scale.json`: `bench/measured.json` is a copy, with which `bench/simulation.py` is compared.
"""

import asyncio
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import asyncpg
import psutil
import uvloop

from bench import openloop, report, saga, servers, shop
from bench.report import Rate
from contracts import topics
from shared.delivery.kafka import Brokers
from tests.acceptance import checker

RATES = (100, 200, 500, 1000)
SECONDS = 12.0
ORDERS = 20_000
COPIES = (1, 2, 4)
COPIED_ORDERS = 10_000
IDLE_SECONDS = 10.0
FILE = servers.FOLDER / "scale.json"

_CLIENTS = "select pid, client_port from pg_stat_activity where client_port > 0"


@dataclass(frozen=True)
class Point:
    """CPU microseconds per order at a rate: of each process, and of the Postgres backends that work for it.

    The process `generator` is the load itself, and `postgres itself` what no backend does.
    """

    per_second: float
    own_us: dict[str, float]
    postgres_us: dict[str, float]
    others: float
    """Cores that other programs of this machine used at the same time."""

    @property
    def total_us(self) -> float:
        return sum(used for name, used in self.own_us.items() if name != "generator")


async def _backends(made: shop.Shop) -> dict[int, str]:
    """The processes of Postgres that serve a part, by pid."""
    conn = await asyncpg.connect(made.url)
    rows = await conn.fetch(_CLIENTS)
    await conn.close()
    owners = {
        connection.laddr.port: name
        for name, process in made.processes.items()
        if name not in {"postgres", "kafka"}
        for connection in process.net_connections("tcp")
    }
    return {row["pid"]: owners[row["client_port"]] for row in rows if row["client_port"] in owners}


async def _postgres_cpu(made: shop.Shop) -> dict[str, float]:
    """CPU seconds of Postgres so far, by the part that it works for. The rest is its own: log, checkpoints, vacuum."""
    owners: dict[int, str] = await _backends(made)
    found: dict[str, float] = defaultdict(float)
    for child in made.processes["postgres"].children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[owners.get(child.pid, "postgres itself")] += times.user + times.system
    return found


@dataclass(frozen=True)
class Used:
    """CPU seconds so far: of each process, of Postgres by part, and of the whole machine; and the time."""

    own: Mapping[str, float]
    postgres: Mapping[str, float]
    machine: float
    at: float


async def _used(made: shop.Shop) -> Used:
    machine = psutil.cpu_times()
    own = {**made.cpu(), "generator": sum(os.times()[:4])}
    busy = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
    return Used(own, await _postgres_cpu(made), busy, time.perf_counter())


def _point(before: Used, after: Used, count: int, *, idle: bool = False) -> Point:
    """The CPU for each of `count` orders, or, if it was idle, for each second."""
    seconds = after.at - before.at

    def each(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        per = seconds if idle else count
        return {name: round((used - old.get(name, 0.0)) / per * 1e6, 1) for name, used in new.items()}

    ours = sum(after.own.values()) - sum(before.own.values())
    others = round(max(0.0, (after.machine - before.machine - ours) / seconds), 2)
    rate = 0.0 if idle else round(count / seconds, 1)
    return Point(rate, each(before.own, after.own), each(before.postgres, after.postgres), others)


async def _open_loop(made: shop.Shop, rate: int, placed: int) -> tuple[Point, int]:
    """Place orders on schedule; returns the point, and how many orders are there now."""
    before = await _used(made)
    load = await asyncio.to_thread(openloop.run, made.port, rate, SECONDS)
    count = load.finished.count
    await saga.all_final(made, placed + count)
    return _point(before, await _used(made), count), placed + count


async def _saturated(made: shop.Shop, placed: int) -> tuple[Point, int]:
    before = await _used(made)
    await saga.place(made.ports, ORDERS, saga.CLIENTS)
    await saga.all_final(made, placed + ORDERS)
    return _point(before, await _used(made), ORDERS), placed + ORDERS


async def _idle(made: shop.Shop) -> Point:
    """CPU microseconds a second of each process while nobody orders."""
    await asyncio.sleep(2)
    before = await _used(made)
    await asyncio.sleep(IDLE_SECONDS)
    return _point(before, await _used(made), 0, idle=True)


async def _commit_ms(made: shop.Shop) -> float:
    """How long a COMMIT of one row takes, in the middle."""
    conn, times = await asyncpg.connect(made.url), []
    await conn.execute("create table bench_commits (n int)")
    for n in range(200):
        started = time.perf_counter()
        await conn.execute("insert into bench_commits values ($1)", n)
        times.append(time.perf_counter() - started)
    await conn.close()
    return round(report.percentile(times, 50) * 1e3, 2)


async def _parts(made: shop.Shop) -> tuple[list[Point], float]:
    await saga.place(made.ports, ORDERS, saga.CLIENTS)  # Java compiles what runs often, on the same cores
    await saga.all_final(made, ORDERS)
    placed, points, commit_ms = ORDERS, [await _idle(made)], await _commit_ms(made)
    for rate in RATES:
        point, placed = await _open_loop(made, rate, placed)
        points.append(point)
    point, placed = await _saturated(made, placed)
    return [*points, point], commit_ms


def _show(points: list[Point], commit_ms: float) -> None:
    print("\nscale: CPU us per order of each part, and of Postgres for it; idle: us a second")
    print(f"  {'':<24}" + "".join(f"{point.per_second:>14,.0f} /s  " for point in points))
    for name in {name: None for point in points for name in (*point.own_us, *point.postgres_us)}:
        cells = [f"{point.own_us.get(name, 0):>9,.0f} + {point.postgres_us.get(name, 0):>7,.0f}" for point in points]
        print(f"  {name:<24}{''.join(cells)}")
    print(f"  {'all without generator':<24}" + "".join(f"{point.total_us:>19,.0f}" for point in points))
    print(f"  {'cores of other programs':<24}" + "".join(f"{point.others:>19.2f}" for point in points))
    print(f"  a COMMIT takes {commit_ms} ms")


async def _copied(made: shop.Shop, brokers: Brokers, copies: int) -> Rate:
    """Place orders at all APIs as fast as possible, and check every invariant."""
    await saga.place(made.ports, saga.WARM_UP, 8)
    await saga.all_final(made, saga.WARM_UP)
    cpu, started = made.cpu(), time.perf_counter()
    await saga.place(made.ports, COPIED_ORDERS, saga.CLIENTS)
    await saga.all_final(made, COPIED_ORDERS + saga.WARM_UP)
    seconds = time.perf_counter() - started
    used = (made.cpu() - cpu).total()
    await checker.quiet(made.url, brokers)
    evidence = await checker.gather(made.url, brokers)
    evidence.is_history_complete = False  # the load generator keeps no history
    if found := checker.complaints(evidence):
        raise SystemExit(f"{copies} of everything: {len(found)} complaints: {found[:10]}")
    report.audit(f"{copies} of everything: orders = checked", COPIED_ORDERS + saga.WARM_UP, len(evidence.orders))
    return Rate(f"{copies} of everything", COPIED_ORDERS, seconds, cpu_seconds=used)


def _with_copies(run: servers.Servers, copies: int) -> Rate:
    database = f"bench_scale_{copies}"
    layout = [shop.Part(service, number=n) for service in shop.SERVICES for n in range(1, copies + 1)]
    layout.append(shop.Part("products", "relay"))  # the checker waits until the catalogue is published
    with servers.another_broker(run) as fresh:
        asyncio.run(topics.create(fresh.bootstrap, max(COPIES), 1))
        asyncio.run(fresh.migrate(database))
        with shop.running(fresh, database, layout=layout) as made:
            return uvloop.run(_copied(made, Brokers(fresh.bootstrap), copies))


def main(run: servers.Servers) -> None:
    asyncio.run(run.migrate("bench_parts"))
    with shop.running(run, "bench_parts", layout=shop.PARTS) as made:
        points, commit_ms = uvloop.run(_parts(made))
    _show(points, commit_ms)
    rates = [_with_copies(run, copies) for copies in COPIES]
    report.show("scale: everything once, twice, four times, on the same cores", *rates)
    report.most(
        "CPU of an order with four of everything, compared with one",
        (rates[-1].cpu_seconds / rates[-1].count) / (rates[0].cpu_seconds / rates[0].count),
        "times",
        3,
        1.5,
    )
    copies = {
        str(n): {"per_second": rate.per_second, "us": rate.cpu_seconds / rate.count * 1e6}
        for n, rate in zip(COPIES, rates, strict=True)
    }
    found = {
        "cores": os.cpu_count(),
        "commit_ms": commit_ms,
        "parts": [asdict(point) for point in points],
        "copies": copies,
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")
