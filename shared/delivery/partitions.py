"""Day partitions of outbox and inbox, created a week ahead.

What must stay true: a write never fails because a partition is missing: the DEFAULT partition takes the row. Such rows
move to the partition of their day later. They keep `xid` and `id`, so their position does not change.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from random import uniform
from time import monotonic
from uuid import UUID

import structlog

from .. import metrics, postgres
from ..postgres import Pool
from ..process.loop import Beat, repeat

DAYS_AHEAD = 7
_EVERY_SECONDS = 1800.0
_LOOK_SECONDS = 5.0

log = structlog.get_logger()


def days(today: date) -> list[date]:
    """The days that must have partitions. Clocks differ, so yesterday is one of them."""
    return [today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)]


def statements(day: date) -> Iterator[tuple[str, list[str]]]:
    """For each table: the name of the day's partition, and the statements that create it, for one transaction.

    The partition is created as a separate table and then attached. The reason: the DEFAULT partition may hold rows of
    the day, and these must move first.
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
                # Inserts wait here, before they choose a partition. An insert that has chosen DEFAULT would fail.
                f"lock table only {table} in share row exclusive mode",
                f"lock table {table}_default in access exclusive mode",
                f"create table {name} (like {table} including defaults including constraints)",
                f"with moved as ("
                f"delete from {table}_default where {column} >= {low} and {column} < {high} returning *) "
                f"insert into {name} select * from moved",
                f"alter table {table} attach partition {name} for values from ({low}) to ({high})",
            ],
        )


def _first_id(moment: datetime) -> UUID:
    """The smallest UUID of a millisecond: its first 48 bits are the time."""
    return UUID(int=int(moment.timestamp() * 1000) << 80)


async def run_once(pool: Pool) -> int:
    """Create the missing partitions, each in a transaction of its own. Returns how many were created."""
    made = 0
    for day in days(datetime.now(UTC).date()):
        for name, commands in statements(day):
            async with postgres.transaction(pool) as conn:
                if await conn.fetchval("select to_regclass($1)", name) is None:
                    for command in commands:
                        await conn.execute(command)
                    made += 1
    async with pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
        for table in ("outbox", "inbox"):
            stray = await conn.fetchval(f"select count(*) from {table}_default")
            metrics.OUTBOX_UNPARTITIONED.labels(table).set(stray)
            if stray:
                log.error("rows are in the DEFAULT partition: a day was missing", table=table, rows=stray)
    return made


async def run(pool: Pool, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Create missing partitions every half hour until `stop` is set."""
    due_at = 0.0

    async def turn() -> float:
        nonlocal due_at
        if monotonic() >= due_at:
            due_at = monotonic() + 30.0  # the next attempt, if this one fails
            await run_once(pool)
            due_at = monotonic() + _EVERY_SECONDS * uniform(0.8, 1.2)
        return _LOOK_SECONDS

    await repeat("creation of day partitions", turn, stop, beat, trouble=postgres.ERRORS)
