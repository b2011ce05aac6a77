"""The inbox: the ids of events whose effects are committed, so that an event delivered again has no effect again.

What must stay true: an id is in the inbox if and only if the effects of its event are committed, because both are
written by one transaction. Ids are UUIDv7 and sort by time, so a day of ids is a partition (RFC 9562).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.postgres.connections import Connection

RETENTION = timedelta(days=9)  # longer than topics keep records (7 days), so nothing forgotten can come back
_AHEAD = timedelta(days=1)

# Ids that the insert does not return are already in: their effects are committed. The keys are those with a parked
# head, behind which later events must wait; the caller holds the keys' locks, so no key can become blocked meanwhile.
_CLAIM = """
with fresh as (
  insert into inbox (event_id, consumer) select id, $2 from unnest($1::uuid[]) id
  on conflict do nothing returning event_id)
select (select coalesce(array_agg(event_id), '{}') from fresh),
       (select coalesce(array_agg(distinct aggregate_type || ' ' || key), '{}') from parked
         where consumer = $2 and key = any($3::text[]) and blocks and resolved_at is null)
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What `claim` found: which ids are new, and which `aggregate key` pairs are blocked."""

    fresh: set[UUID]
    blocked: set[str]


async def claim(conn: Connection, consumer: str, ids: Sequence[UUID], keys: Sequence[str]) -> Claim:
    """Mark ids as handled by `consumer`, in the caller's transaction, which holds the locks of `keys`.

    Doubles within `ids` count once. Every id must be `acceptable`, or the whole insert may fail.
    """
    row = await conn.fetchrow(_CLAIM, ids, consumer, keys)
    if row is None:
        raise RuntimeError("a select without FROM returns one row")
    return Claim(set(row[0]), set(row[1]))


def acceptable(event_id: UUID, now: datetime | None = None) -> bool:
    """Say whether the id is a UUIDv7 of the time that the inbox covers."""
    if event_id.version != 7:
        return False
    now = now or datetime.now(UTC)
    written = (event_id.int >> 80) / 1000
    return (now - RETENTION).timestamp() <= written <= (now + _AHEAD).timestamp()
