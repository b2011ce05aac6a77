"""The outbox: an append-only table of events, in the service's own schema.

What must stay true: an event is written in the transaction of its change, so both are committed or neither is.
Rows are never updated and never deleted, so a position `(xid, id)` in a lane keeps its meaning. The pattern is the
transactional outbox (Richardson, Microservices Patterns, 2018). `lanes.py` explains how rows are read without gaps.
"""

from collections.abc import Sequence

from .. import postgres
from ..postgres import Connection
from . import events
from .events import Encoded, Event

MAX_BYTES = 900_000  # under Kafka's default of 1 MiB a record, envelope included
DEAD_LETTER_SUFFIX = ".dlq"


class TooLarge(Exception):
    """The event is larger than Kafka allows. It was not written."""


def insert_sql(first: int, where: str = "true") -> str:
    """The statement that appends rows. Its parameters `$first` to `$first + 6` are the arrays of `columns`.

    It can be the last part of a larger statement. `where` may use `row.key`, so that events are written only for rows
    that the larger statement changed. The lane follows from the hash, so all events of a key are in one lane.
    """
    types = ("int[]", "uuid[]", "text[]", "text[]", "text[]", "bytea[]", "bytea[]")
    arrays = ", ".join(f"${first + n}::{type_}" for n, type_ in enumerate(types))
    return f"""
    insert into outbox (lane, hash, event_id, topic, key, type, head, value)
    select row.hash % (select count(*) from outbox_lanes), hash, event_id, topic, key, type, head, value
      from unnest({arrays}) with ordinality row(hash, event_id, topic, key, type, head, value, n)
     where {where} order by row.n"""


_INSERT = insert_sql(1)


async def append(conn: Connection, new: Sequence[Event]) -> None:
    """Write events, in order, in the caller's transaction. Raises `TooLarge`.

    A CHECK of the table rejects topics that this service does not own. If other transactions may write events of the
    same keys, the caller must hold their locks (`postgres.transaction(pool, keys)`).
    """
    await append_encoded(conn, [events.encode(event) for event in new])


async def append_encoded(conn: Connection, rows: Sequence[Encoded]) -> None:
    """Write events that are encoded already, in order, in the caller's transaction. Raises `TooLarge`."""
    if rows:
        await conn.execute(_INSERT, *columns(rows))


def columns(rows: Sequence[Encoded]) -> tuple[Sequence[object], ...]:
    """Turn encoded events into the seven arrays for `insert_sql`. Raises `TooLarge`."""
    for row in rows:
        limit = MAX_BYTES * 2 if row.topic.endswith(DEAD_LETTER_SUFFIX) else MAX_BYTES
        if len(row.key) > events.MAX_KEY:
            raise TooLarge(f"the key of a {row.type} has {len(row.key)} characters; the limit is {events.MAX_KEY}")
        if len(row.value) + len(row.key) > limit:
            raise TooLarge(f"{row.type} of {row.key:.60} has {len(row.value)} bytes; Kafka allows {limit}")
    return postgres.columns(rows, len(Encoded._fields))
