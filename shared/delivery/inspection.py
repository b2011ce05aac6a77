"""Reading the toolkit's own tables: lanes, parked events, refused rows, and all events of one key."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson

from .. import postgres
from ..errors import NotFound
from ..postgres import Connection
from . import events, parking
from . import lanes as delivery_lanes
from .repairs import SELECTED, Selection

COUNTED = 100_000
"""Unpublished rows are counted up to this number for each lane; more would take longer than a request may."""

_LANES = f"""
select l.lane, l.owner, l.epoch, l.lease_until > now() as held, u.rows, u.bytes, u.oldest
  from outbox_lanes l cross join lateral (
    select count(*) as rows, coalesce(sum(octet_length(value)), 0)::bigint as bytes, min(occurred_at) as oldest
      from (select value, occurred_at from outbox
             where lane = l.lane and (xid, id) > (l.xid, l.id) order by xid, id limit {COUNTED}) r) u
 order by l.lane
"""

_REFUSED = """
select lane, xid::text, id, topic, key, reason, refused_at from outbox_refused where resolved_at is null
 order by refused_at, lane, xid, id limit 100
"""

_PARKED = f"""
select id, aggregate_type, key, type, event_id, topic, partition, "offset", error, attempts, blocks, parked_at,
       resolved_at, resolution
  from parked where {SELECTED} order by id limit $7
"""

_PARKED_OF_KEY = """
select * from parked
 where consumer = $1 and key = $2 and ($3::timestamptz is null or parked_at >= $3)
   and ($4::timestamptz is null or parked_at <= $4)
 order by id limit 100
"""

# One row for each cause. The events that wait behind others have no cause of their own.
_CAUSES = """
select type, left(error, 200) as error, count(*) as events, count(distinct key) as keys, min(parked_at) as first,
       max(parked_at) as last
  from parked where consumer = $1 and resolved_at is null group by 1, 2 order by 3 desc limit 50
"""

_OPEN = """
select count(*) as events, count(distinct (aggregate_type, key)) filter (where blocks) as keys,
       min(parked_at) as oldest
  from parked where consumer = $1 and resolved_at is null
"""

_EVENTS = """
select o.type, o.topic, o.event_id, o.head, o.value, o.lane, (o.xid, o.id) <= (l.xid, l.id) as published,
       r.reason as refused
  from outbox o join outbox_lanes l using (lane)
  left join outbox_refused r on (r.lane, r.xid, r.id) = (o.lane, o.xid, o.id) and r.resolved_at is null
 where o.key = $1 and o.lane = $2 % (select count(*) from outbox_lanes) and o.occurred_at between $3 and $4
 order by o.xid, o.id limit 200
"""


async def lanes(conn: Connection) -> list[dict[str, Any]]:
    """Each lane: who holds it, and the rows, bytes and oldest time of what is not published."""
    return [dict(row) for row in await conn.fetch(_LANES)]


async def held_back_by(conn: Connection) -> dict[str, Any] | None:
    """The write transaction that holds the outbox back, see `lanes.held_back_by`."""
    found = await delivery_lanes.held_back_by(conn)
    return dict(found) if found else None


async def refused(conn: Connection) -> list[dict[str, Any]]:
    """The rows that Kafka refused, and those that wait behind them, a hundred at most."""
    return [dict(row) for row in await conn.fetch(_REFUSED)]


async def parked(conn: Connection, consumer: str, wanted: Selection, limit: int = 100) -> list[dict[str, Any]]:
    """Parked events that are not resolved, without their values, the oldest first."""
    return [dict(row) for row in await conn.fetch(_PARKED, consumer, *wanted.values, limit)]


async def causes(conn: Connection, consumer: str) -> list[dict[str, Any]]:
    """Parked events by type and error: how many, of how many keys, since when."""
    return [dict(row) for row in await conn.fetch(_CAUSES, consumer)]


async def open_parked(conn: Connection, consumer: str) -> asyncpg.Record:
    """How many events are parked, how many keys they block, and the time of the oldest."""
    return await postgres.one(conn, _OPEN, consumer)


async def parked_one(conn: Connection, parked_id: int) -> dict[str, Any]:
    """One parked event with its headers and value as text. Raises `NotFound`."""
    row = await conn.fetchrow("select * from parked where id = $1", parked_id)
    if row is None:
        raise NotFound
    record = parking.record_of(row)
    shown = {name: value for name, value in row.items() if name not in {"raw_key", "headers", "value"}}
    headers = {name: parking.readable(value) for name, value in record.headers}
    return {**shown, "headers": headers, "value": parking.readable(record.value)}


async def timeline(
    conn: Connection,
    consumer: str,
    key: str,
    since: datetime | None = None,
    until: datetime | None = None,
    first: datetime | None = None,
) -> list[dict[str, Any]]:
    """The events of one key that this service wrote or parked from `since` to `until`, by time.

    None was written before `first`. With neither `since` nor `first`, the whole outbox is read: a second for some
    million rows.
    """
    now = datetime.now(UTC)
    window = (since or first or now - timedelta(days=400), until or now + timedelta(days=1))
    written = [_written(row) for row in await conn.fetch(_EVENTS, key, events.hash_of(key), *window)]
    rows = await conn.fetch(_PARKED_OF_KEY, consumer, key, since, until)
    return sorted([*written, *map(_parked, rows)], key=lambda one: str(one["at"]))


def _written(row: asyncpg.Record) -> dict[str, Any]:
    state = "refused: " + row["refused"] if row["refused"] else "published" if row["published"] else "not published yet"
    return {
        "at": events.time_of(row["head"]),
        "what": row["type"],
        "state": state,
        "topic": row["topic"],
        "event_id": row["event_id"],
        "lane": row["lane"],
        "value": orjson.loads(row["value"]),
    }


def _parked(row: asyncpg.Record) -> dict[str, Any]:
    state = (
        f"parked: {row['error']}" if row["resolved_at"] is None else f"was parked: {row['resolution'] or 'resolved'}"
    )
    return {
        "at": events.text_of(row["parked_at"]),
        "what": row["type"],
        "state": state,
        "topic": row["topic"],
        "event_id": row["event_id"],
        "parked_id": row["id"],
        "resolved_at": row["resolved_at"],
    }
