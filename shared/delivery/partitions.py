"""Day partitions of outbox and inbox: created a week ahead, and dropped when their retention is over.

What must stay true: a write never fails because a partition is missing: the DEFAULT partition takes the row, and the
row moves to its day later. A day of the outbox is dropped only when all its rows are published. The functions of the
database that this module calls are in `schema.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from random import uniform
from time import monotonic

import structlog

from .. import metrics, postgres
from ..postgres import Connection, Pool
from ..process.loop import Beat, repeat
from . import inbox

DAYS_AHEAD = 7
OUTBOX_RETENTION = timedelta(days=8)
"""So long published rows are kept. It is shorter than the inbox's, so rows that are published again are recognized."""
RETENTION = {"outbox": OUTBOX_RETENTION, "inbox": inbox.RETENTION}
_STRAY_DAYS = 10
_STRAY_ROWS = 5000
_EVERY_SECONDS = 1800.0
_LOOK_SECONDS = 5.0

log = structlog.get_logger()

Forget = Callable[[Connection], Awaitable[int]]
"""Deletes a bounded number of rows whose retention is over. Returns how many; it is called again until that is 0."""

_DAYS = "select relname::text from pg_inherits join pg_class on oid = inhrelid where inhparent = $1::text::regclass"


async def _forget_acts(conn: Connection) -> int:
    """The service's role may not delete acts. This function deletes only those that are older than 400 days."""
    return int(await conn.fetchval("select forget_acts(1000)"))


# Rows that are open have no such time, and are never deleted.
_EXPIRED: tuple[Forget, ...] = (
    *(
        partial(postgres.delete_some, table=table, condition=condition)
        for table, condition in (
            ("parked", "resolved_at < now() - interval '90 days'"),
            ("outbox_refused", "resolved_at < now() - interval '30 days'"),
            ("repairs", "ended_at < now() - interval '400 days'"),
        )
    ),
    _forget_acts,
)


def days(today: date) -> list[date]:
    """The days that must have partitions. Clocks differ, so yesterday is one of them."""
    return [today + timedelta(days=n) for n in range(-1, DAYS_AHEAD + 1)]


async def run_once(pool: Pool, beat: Beat = lambda: None) -> int:
    """Create missing partitions and drop old ones, each in its own transaction. Returns how many were created.

    Rows in DEFAULT whose day is over move to a partition of that day. If they are too many to move in one statement,
    they stay until their retention is over.
    """
    today = datetime.now(UTC).date()
    made = 0
    for table in RETENTION:
        beat()
        for day in days(today):
            made += await _call(pool, "select make_day($1, $2)", table, day)
        made += await _move_strays(pool, table)
        await _drop_old(pool, table, today, beat)
    return made


async def _move_strays(pool: Pool, table: str) -> int:
    strays = await _strays(pool, table)
    if strays:
        log.error("rows are in the DEFAULT partition: a day was missing", table=table, rows=sum(strays.values()))
    made = 0
    for day in sorted(strays)[:_STRAY_DAYS]:
        try:
            made += await _call(pool, "select make_day($1, $2)", table, day)
        except postgres.ERRORS as error:
            if not postgres.is_too_slow(error):
                raise
            log.warning("too many rows to move to their day", table=table, day=str(day), rows=strays[day])
    if strays:
        strays = await _strays(pool, table)
    metrics.OUTBOX_UNPARTITIONED.labels(table).set(sum(strays.values()))
    return made


async def _strays(pool: Pool, table: str) -> dict[date, int]:
    async with pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
        return {row["day"]: row["rows"] for row in await conn.fetch("select * from stray_days($1)", table)}


async def _drop_old(pool: Pool, table: str, today: date, beat: Beat) -> None:
    """Drop the days that ended before the retention began. A day with rows that wait for Kafka stays."""
    first = today - RETENTION[table]
    async with pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
        names = [row[0].removeprefix(f"{table}_") for row in await conn.fetch(_DAYS, table)]
    for name in sorted(name for name in names if name.isdigit()):
        beat()
        day = datetime.strptime(name, "%Y%m%d").replace(tzinfo=UTC).date()
        if day >= first:
            break
        if await _call(pool, "select drop_day($1, $2)", table, day):
            log.info("old day dropped", table=table, day=str(day))
        else:
            log.error("an old day has rows that are not published, and stays", table=table, day=str(day))
    while await _call(pool, "select drop_strays($1, $2, $3)", table, first, _STRAY_ROWS):
        beat()


async def forget(pool: Pool, forgets: Sequence[Forget] = (), beat: Beat = lambda: None) -> None:
    """Delete rows of other tables whose retention is over: a thousand at a time, each in its own transaction."""
    for each in (*_EXPIRED, *forgets):
        gone = 1
        while gone:
            beat()
            async with postgres.transaction(pool) as conn:
                gone = await each(conn)


async def _call(pool: Pool, sql: str, *arguments: object) -> int:
    async with postgres.transaction(pool) as conn:
        return int(await conn.fetchval(sql, *arguments))


async def run(pool: Pool, forgets: Sequence[Forget], stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Create and drop days, and delete what is expired, every half hour until `stop` is set."""
    due_at = 0.0

    async def turn() -> float:
        nonlocal due_at
        if monotonic() >= due_at:
            due_at = monotonic() + 30.0  # the next attempt, if this one fails
            await run_once(pool, beat)
            await forget(pool, forgets, beat)
            due_at = monotonic() + _EVERY_SECONDS * uniform(0.8, 1.2)
        return _LOOK_SECONDS

    await repeat("care of day partitions", turn, stop, beat, trouble=postgres.ERRORS)
