"""The inbox: the ids of the events that are done. An event that is delivered again has no second effect.

What must stay true: an id is in the inbox if and only if the effects of its event are committed, because one
transaction writes both. Ids are UUIDv7 (RFC 9562) and sort by time, so a day of ids is a partition.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from .. import postgres
from ..postgres import Connection

RETENTION = timedelta(days=9)  # longer than topics keep records (7 days), so a forgotten event cannot come back
_AHEAD = timedelta(days=1)

# An id that the insert does not return is in the inbox already: the effects of its event are committed. A key with a
# parked event that blocks is blocked. The caller holds the locks of the keys, so no key can become blocked meanwhile.
_ADD = """
with fresh as (
  insert into inbox (event_id, consumer) select id, $2 from unnest($1::uuid[]) id
  on conflict do nothing returning event_id)
select (select coalesce(array_agg(event_id), '{}') from fresh) as fresh,
       (select coalesce(array_agg(distinct array[aggregate_type, key]), '{}') from parked
         where consumer = $2 and key = any($3::text[]) and blocks and resolved_at is null) as blocked
"""


@dataclass(frozen=True, slots=True)
class Added:
    """The result of `add`: the ids that are new, and the (aggregate, key) pairs that are blocked."""

    fresh: set[UUID]
    blocked: set[tuple[str, str]]


async def add(conn: Connection, consumer: str, ids: Sequence[UUID], keys: Sequence[str]) -> Added:
    """Record that `consumer` handles these events, in the caller's transaction, which holds the locks of `keys`.

    An id that occurs twice in `ids` counts once. Every id must be `acceptable`, or the whole insert may fail.
    """
    row = await postgres.one(conn, _ADD, ids, consumer, keys)
    return Added(set(row["fresh"]), {(aggregate, key) for aggregate, key in row["blocked"]})


async def remove(conn: Connection, consumer: str, ids: Collection[UUID]) -> None:
    """Forget events of the caller's transaction that have no effects in it."""
    await conn.execute("delete from inbox where consumer = $1 and event_id = any($2)", consumer, list(ids))


async def known(conn: Connection, consumer: str, ids: Sequence[UUID]) -> set[UUID]:
    """The ids of events whose effects are committed."""
    rows = await conn.fetch("select event_id from inbox where consumer = $1 and event_id = any($2)", consumer, ids)
    return {row["event_id"] for row in rows}


def acceptable(event_id: UUID, now: datetime | None = None) -> bool:
    """True if the id is a UUIDv7 of the days that the inbox covers."""
    now = now or datetime.now(UTC)
    return is_past(event_id, now) and (event_id.int >> 80) / 1000 >= (now - RETENTION).timestamp()


def is_past(event_id: UUID, now: datetime | None = None) -> bool:
    """True if the id is a UUIDv7 of any time up to now. Clocks differ, so a day ahead is allowed."""
    now = now or datetime.now(UTC)
    return event_id.version == 7 and (event_id.int >> 80) / 1000 <= (now + _AHEAD).timestamp()
