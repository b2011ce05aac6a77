"""Day partitions of outbox and inbox, made a week ahead; the DEFAULT partition catches what finds none of its day.

What must stay true: a missing partition never fails an order, and rows that the DEFAULT partition caught move to
their day without changing their position, because a move keeps `xid` and `id`.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import uniform
from time import monotonic
from uuid import UUID

import structlog

from shared import metrics
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.backoff import wait

DAYS_AHEAD = 7
_EVERY_SECONDS = 1800.0

log = structlog.get_logger()


def days(today: date) -> list[date]:
    """All days that must have partitions: clocks differ, so yesterday's too."""
    return [today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)]


def statements(day: date) -> Iterator[tuple[str, list[str]]]:
    """Yield, for each table, the name of the day's partition and the statements that make it, in one transaction.

    The partition is made as a table of its own and attached, since rows of the day may be in the DEFAULT partition.
    """
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    for table, column, low, high in (
        ("outbox", "occurred_at", f"'{start:%Y-%m-%d %H:%M:%S+00}'", f"'{end:%Y-%m-%d %H:%M:%S+00}'"),
        ("inbox", "event_id", f"'{_first_id(start)}'", f"'{_first_id(end)}'"),
    ):
        name = f"{table}_{day:%Y%m%d}"
        yield (
            name,
            [
                "set local lock_timeout = '500ms'",
                # Inserts wait here, before they choose a partition: one that had chosen the DEFAULT one would fail.
                f"lock table only {table} in share row exclusive mode",
                f"lock table {table}_default in access exclusive mode",
                f"create table {name} (like {table} including defaults including constraints)",
                f"with moved as ("
                f"delete from {table}_default where {column} >= {low} and {column} < {high} returning *) "
                f"insert into {name} select * from moved",  # all names are ours
                f"alter table {table} attach partition {name} for values from ({low}) to ({high})",
            ],
        )


def _first_id(moment: datetime) -> UUID:
    """Give the smallest UUID whose first 48 bits are the moment in milliseconds."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


async def run_once(pool: Pool) -> int:
    """Make the partitions that are missing; returns how many. One transaction each, and a short wait for its locks."""
    made = 0
    for day in days(datetime.now(UTC).date()):
        for name, commands in statements(day):
            async with db.transaction(pool) as conn:
                if await conn.fetchval("select to_regclass($1)", name) is None:
                    for command in commands:
                        await conn.execute(command)
                    made += 1
    async with pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
        for table in ("outbox", "inbox"):
            stray = await conn.fetchval(f"select count(*) from {table}_default")
            metrics.OUTBOX_UNPARTITIONED.labels(table).set(stray)
            if stray:
                log.error("rows found no partition of their day", table=table, rows=stray)
    return made


async def run(pool: Pool, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
    """Look every half hour, and again soon after trouble."""
    look_at = 0.0
    while not stop.is_set():
        beat()
        if monotonic() >= look_at:
            try:
                await run_once(pool)
                look_at = monotonic() + _EVERY_SECONDS * uniform(0.8, 1.2)
            except db.ERRORS as error:
                log.warning("partitions could not be made, trying again", error=repr(error))
                look_at = monotonic() + 30.0
        await wait(stop, 5.0)
