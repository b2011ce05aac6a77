"""The outbox: an append-only log of events in the service's own schema, written in the transaction that made them true.

What must stay true: nothing but `append` publishes, it uses the caller's transaction and never commits, and rows are
neither updated nor deleted, so that a position `(xid, id)` in a lane means the same for ever. The technique is the
transactional outbox (Richardson, Microservices Patterns, 2018); `shared/lanes.py` says how it is read without gaps.
"""

from collections.abc import Sequence

from shared.delivery import events
from shared.delivery.events import Encoded, Event
from shared.postgres import connections as db
from shared.postgres.connections import Connection

MAX_BYTES = 900_000  # under Kafka's default of 1 MiB a record, envelope included
DEAD_LETTER_SUFFIX = ".dlq"


class TooLarge(Exception):
    """An event is larger than what Kafka takes; it is refused before it is written."""


def insert_sql(first: int, where: str = "true") -> str:
    """Write the statement that appends rows given as seven arrays in `$first` … `$first + 6`; see `columns`.

    `where` may look at `row.key`, so that a larger statement appends only for what it really changed. The lane comes
    from the hash, so all events of one key are in one lane; there are as many lanes as rows in `outbox_lanes`.
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

    A topic that this service does not publish on is refused by the table's own CHECK. If others may write events of
    the same keys, `db.lock_keys` must have been the transaction's first statement.
    """
    await append_encoded(conn, [events.encode(event) for event in new])


async def append_encoded(conn: Connection, rows: Sequence[Encoded]) -> None:
    """Write rows that have their envelope already, in order, in the caller's transaction. Raises `TooLarge`."""
    if rows:
        await conn.execute(_INSERT, *columns(rows))


def columns(rows: Sequence[Encoded]) -> tuple[Sequence[object], ...]:
    """Turn rows into the seven arrays that `insert_sql` takes. Raises `TooLarge`."""
    for row in rows:
        limit = MAX_BYTES * 2 if row.topic.endswith(DEAD_LETTER_SUFFIX) else MAX_BYTES
        if len(row.key) > events.MAX_KEY:
            raise TooLarge(f"the key of a {row.type} has {len(row.key)} characters; {events.MAX_KEY} at most")
        if len(row.value) + len(row.key) > limit:
            raise TooLarge(f"{row.type} of {row.key:.60} has {len(row.value)} bytes; Kafka takes {limit} at most")
    return db.columns(rows, len(Encoded._fields))
