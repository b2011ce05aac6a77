"""Bad records among good ones: 40 kinds of poison in 10,000 orders, compared with the same orders alone.

Then the next release, without its bugs, replays what was parked, and every order is done.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import uvloop

from bench import report, servers
from bench.report import Rate
from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from inventory import service
from shared import postgres
from shared.delivery import repairs
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from shared.delivery.repairs import Author, Repairs, Selection
from shared.postgres import Connection, Pool
from shared.process import logs
from shared.process.backoff import Backoff
from shared.process.tasks import collect_garbage_rarely
from tests.builders import order_created, record, with_header

ORDERS, BATCH, SKUS = 10_000, 500, 100
ROUNDS = 5
FAILURES: tuple[Callable[[], Exception], ...] = (
    lambda: ValueError("a bug"),
    lambda: KeyError("a bug"),
    lambda: FileNotFoundError("a template"),
    lambda: TimeoutError("another service"),
    lambda: ConnectionResetError("another service"),
    lambda: asyncpg.DataError("a value"),
    lambda: ZeroDivisionError("a rate"),
    lambda: RecursionError("a tree"),
)
"""What the release with bugs raises at some orders. The errors of other services look like those of Postgres."""


def poison() -> Iterator[Record]:
    """One record of each kind that no release can read, and one of a type that only the next release knows."""
    good = record(order_created(1))
    fields = orjson.loads(good.value or b"")
    values = [None, b"", b"null", b"[]", b"7", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"x" * 900_000, b"NaN"]
    values += [orjson.dumps(fields | {"quantity": wrong}) for wrong in (0, -1, 2**31, 1.5, "1", None)]
    values += [orjson.dumps(fields | {"sku": wrong}) for wrong in ("a\x00b", 5, None)]
    values += [orjson.dumps({name: value for name, value in fields.items() if name != "order_id"})]
    for value in values:
        yield record(order_created(1))._replace(value=value)
    for key in (None, b"", b"another", b"\xff", b"k" * 5000):
        yield record(order_created(1))._replace(key=key)
    for id_ in (b"", b"x", str(uuid4()).encode(), b"01800000-0000-7000-8000-000000000000", b"f" * 36):
        yield with_header(good, "ce_id", id_)
    yield good._replace(headers=[])
    yield record(OrderConfirmed(version=2, order_id=ORDERS + 1, sku="sku1", quantity=2))


class Release:
    """A release of inventory. With bugs it fails at some orders, and does not know OrderConfirmed."""

    def __init__(self, pool: Pool, broken: dict[int, Callable[[], Exception]]) -> None:
        self._broken = broken
        handlers: dict[Any, Any] = {OrderCreated: self._reserve, OrderCancelled: service.cancel}
        if not broken:
            handlers[OrderConfirmed] = service.confirm
        self.handling = Handling(pool, "inventory", handlers, also_lock=service.STOCK_LOCK)

    async def _reserve(self, conn: Connection, orders: list[OrderCreated]) -> None:
        for order in orders:
            if order.order_id in self._broken:
                raise self._broken[order.order_id]()
        await service.reserve(conn, orders)


def _records(failing: list[int]) -> tuple[list[Record], list[Record]]:
    """The good orders, and the same ones with the poison spread among them."""
    orders = [order_created(n, sku=f"sku{n % SKUS}") for n in range(1, ORDERS + 1)]
    good = [order for order in orders if order.order_id not in failing]
    bad = [*poison(), *(record(order) for order in orders if order.order_id in failing)]
    mixed: list[Record] = []
    every = len(good) // len(bad)
    for n, order in enumerate(good):
        mixed.append(record(order))
        if n % every == every // 2 and bad:
            mixed.append(bad.pop(0))
    offsets = count()
    return [record(order) for order in good], [one._replace(offset=next(offsets)) for one in mixed + bad]


async def _consume(name: str, handling: Handling, records: list[Record], good: int) -> Rate:
    """Handle as a consumer does: batches, and what failed again with back-off."""
    started, cpu = time.perf_counter(), time.process_time()
    left: list[Record] = []
    backoff, retry_at = Backoff(cap_seconds=15.0), float("inf")
    for first in range(0, len(records), BATCH):
        retry = time.perf_counter() >= retry_at
        left = await handling.handle([*left, *records[first : first + BATCH]], retry=retry)
        if not left:
            retry_at = float("inf")
        elif retry or retry_at == float("inf"):
            retry_at = time.perf_counter() + backoff.next()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    while left:
        left = await handling.handle(left)
    return Rate(name, good, seconds, cpu_seconds=cpu)


async def _round(run: servers.Servers, n: int) -> tuple[Rate, Rate]:
    failing = [(k + 1) * ORDERS // (len(FAILURES) + 1) for k in range(len(FAILURES))]
    broken = dict(zip(failing, FAILURES, strict=True))
    clean, mixed = _records(failing)
    rates: list[Rate] = []
    for name, records in (("the good orders alone", clean), ("with 40 kinds of poison among them", mixed)):
        database = f"bench_poison_{n}_{len(rates)}"
        await run.migrate(database)
        async with postgres.pool(run.service_url(database, "inventory"), size=2, name="bench") as pool:
            await pool.execute(
                "insert into stock (sku, available) select 'sku' || n, 1000000 from generate_series(0, $1) n", SKUS
            )
            handling = Release(pool, broken).handling
            rates.append(await _consume(name, handling, records, len(clean)))
            if records is mixed and n == ROUNDS - 1:
                await _audit(pool, len(clean), len(mixed) - len(clean), len(failing))
    return rates[0], rates[1]


async def _audit(pool: Pool, good: int, poisoned: int, failing: int) -> None:
    async def number(sql: str) -> int:
        found: int = await pool.fetchval(sql)
        return found

    reservations = "select count(*) from reservations where status = 'HELD'"
    parked = "select count(*) from parked where resolved_at is null"
    report.audit("good orders = reservations", good, await number(reservations))
    report.audit("kinds of poison = parked", 40, poisoned, await number(parked))
    async with postgres.transaction(pool) as conn:
        ids = await repairs.choose(conn, "inventory", Selection(), "replay")
        await repairs.request(conn, "replay", Author("bench", "the next release"), {}, ids, 1000)
    await Repairs(pool, Release(pool, {}).handling).run_once(asyncio.Event())
    print(f"  one replay by the next release: {await pool.fetchval('select outcome from repairs')}")
    report.audit(
        "orders of the good and of those that failed = reservations", good + failing, await number(reservations)
    )


def _log_to(path: Path) -> None:
    """Log as a service does, into a file: each failure is a line with its traceback, which also takes time."""
    logs.configure("INFO", "bench")
    [handler] = logging.getLogger().handlers
    if isinstance(handler, logging.StreamHandler):
        handler.setStream(path.open("w"))


async def _measure(run: servers.Servers) -> None:
    _log_to(servers.FOLDER / "poison.log")
    collect_garbage_rarely()
    rounds = [await _round(run, n) for n in range(ROUNDS)]
    best = [max((pair[k] for pair in rounds), key=lambda rate: rate.per_second) for k in (0, 1)]
    report.show(f"poison: {ORDERS:,} orders in batches of {BATCH}, the best of {ROUNDS} rounds", *best)
    ratios = sorted(pair[1].per_second / pair[0].per_second for pair in rounds)
    print(f"  ratios: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    report.ratio("median ratio", ratios[len(ratios) // 2], 0.9, 0.95)


def main(run: servers.Servers) -> None:
    uvloop.run(_measure(run))
