"""Rehearsal: what a replay of parked events would do. It is done in a real transaction, which is rolled back."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg

from .. import postgres, tracing
from ..postgres import Connection, Pool
from .handlers import HandlerFailed
from .handling import Handling
from .repairs import resolve


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a replay of one parked event would do: its outcome, rows by table, and events. Nothing was changed."""

    parked_id: int
    key: str
    type: str
    outcome: str
    detail: str
    changes: dict[str, str]
    """By table: how many rows would be inserted, updated and deleted."""
    rows: dict[str, list[dict[str, Any]]]
    """By table: the rows as they would be afterwards, a few of each."""
    events: list[dict[str, str]]


_COUNTS = """
select relname::text as table, n_tup_ins as inserted, n_tup_upd as updated, n_tup_del as deleted
  from pg_stat_xact_user_tables
 where schemaname = current_schema() and n_tup_ins + n_tup_upd + n_tup_del > 0
   and relname !~ '^(outbox|inbox|parked|repair)'
"""
_EVENTS = """
select type, key, convert_from(value, 'UTF8') as value from outbox
 where lane = any(array(select lane from outbox_lanes)) and xid = pg_current_xact_id() and id > $1 order by id
"""


class _Undone(Exception):
    """Ends a transaction whose result is only looked at."""


async def rehearse(pool: Pool, handling: Handling, ids: Sequence[int]) -> list[Rehearsal]:
    """Do what a replay would do, in real transactions with the real handlers, and roll each back.

    The events of a key are in one transaction, so each sees the effects of those before it.
    """
    async with pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
        rows = await conn.fetch("select id, key, type from parked where id = any($1) order by id", list(ids))
    by_key: dict[str, list[asyncpg.Record]] = {}
    for row in rows:
        by_key.setdefault(row["key"], []).append(row)
    found: list[Rehearsal] = []
    for key, of_key in by_key.items():
        with suppress(_Undone), tracing.carrying({}):
            async with postgres.transaction(pool, [key, *handling.also_lock]) as conn:
                await _rehearse_key(conn, handling, of_key, found)
    return sorted(found, key=lambda one: one.parked_id)


async def _rehearse_key(
    conn: Connection, handling: Handling, rows: Sequence[asyncpg.Record], found: list[Rehearsal]
) -> None:
    for row in rows:
        found.append(await _rehearse_one(conn, handling, row))
        if found[-1].outcome == "failed":
            break
    raise _Undone


async def _rehearse_one(conn: Connection, handling: Handling, row: asyncpg.Record) -> Rehearsal:
    what = (row["id"], row["key"], row["type"])
    before = {r["table"]: r for r in await conn.fetch(_COUNTS)}
    last = await conn.fetchval("select case when is_called then last_value else 0 end from outbox_id_seq")
    try:
        outcome = await resolve(conn, handling, row["id"])
    except HandlerFailed as failure:
        return Rehearsal(*what, "failed", repr(failure.error)[:2000], {}, {}, [])
    changes, rows = {}, {}
    for table, after in {r["table"]: r for r in await conn.fetch(_COUNTS)}.items():
        counts = [after[name] - (before[table][name] if table in before else 0) for name in _CHANGED]
        if any(counts):
            changes[table] = ", ".join(f"{n} {name}" for n, name in zip(counts, _CHANGED, strict=True) if n)
            rows[table] = await _changed_rows(conn, table)
    written = [dict(r) for r in await conn.fetch(_EVENTS, last)]
    return Rehearsal(*what, *outcome, changes, rows, written)


_CHANGED = ("inserted", "updated", "deleted")


async def _changed_rows(conn: Connection, table: str) -> list[dict[str, Any]]:
    """The rows of a table that this transaction has written, ten at most; none if the table is too large to look."""
    sql = f'select to_jsonb(t) as row from "{table}" t where xmin = pg_current_xact_id()::xid limit 10'
    await conn.execute("savepoint looking; set local statement_timeout = '500ms'")
    try:
        return [row["row"] for row in await conn.fetch(sql)]
    except asyncpg.QueryCanceledError:
        return []
    finally:
        await conn.execute("rollback to savepoint looking; release savepoint looking")
