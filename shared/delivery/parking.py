"""Parking: an event that cannot be handled is kept in the table `parked`, and copied to its dead letter topic.

What must stay true: a parked event and its inbox row commit together. Later events of a blocked key are parked behind
it (`blocks`), so that a replay handles them in their order.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import orjson

from ..postgres import Connection
from . import events, outbox
from .events import ReceivedHeaders, Record

# A record that is read again, because its offset was not committed, is not parked twice.
_PARK = """
insert into parked (consumer, aggregate_type, key, type, event_id, topic, partition, "offset", recorded_at, raw_key,
                    headers, value, error, attempts, blocks)
select $1, * from unnest($2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::int[], $8::bigint[],
                         $9::timestamptz[], $10::bytea[], $11::bytea[], $12::bytea[], $13::text[], $14::int[],
                         $15::bool[])
on conflict do nothing returning topic, partition, "offset"
"""


_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_000  # the years 1 to 9999; a producer can write any time


@dataclass(frozen=True, slots=True)
class Parked:
    """A record to be parked, and the reason. With `blocks`, later events of its key must wait behind it.

    With `event_id`, the row of `parked` is the only way to handle the event: its id is put into the inbox.
    """

    record: Record
    error: str
    attempts: int
    blocks: bool
    event_id: UUID | None = None

    @property
    def key(self) -> str:
        """The key as a text that Postgres can store, whatever its bytes are."""
        return storable((self.record.key or b"").decode(errors="replace"))


async def park(conn: Connection, consumer: str, parked: Sequence[Parked]) -> list[Parked]:
    """Store records in `parked` and append their copies to the outbox, in the caller's transaction.

    Returns the records that were not parked before.
    """
    if not parked:
        return []
    columns = zip(*[_row(one) for one in parked], strict=True)
    rows = await conn.fetch(_PARK, consumer, *columns)
    new = {(row["topic"], row["partition"], row["offset"]) for row in rows}
    added = [one for one in parked if one.record[:3] in new]
    await outbox.append_encoded(conn, [_letter(consumer, one) for one in added])
    return added


def _row(one: Parked) -> tuple[object, ...]:
    record = one.record
    headers = [[name, base64.b64encode(value or b"").decode()] for name, value in record.headers]
    recorded_at = datetime.fromtimestamp(min(max(record.timestamp_ms, _FIRST_MS), _LAST_MS) / 1000, UTC)
    type_ = storable(events.type_of(record) or "")
    return (
        *(record.topic, one.key, type_, one.event_id, record.topic, record.partition, record.offset, recorded_at),
        *(
            record.key,
            orjson.dumps(headers),
            record.value,
            storable(one.error[:2000]),
            one.attempts,
            one.blocks,
        ),
    )


def record_of(row: asyncpg.Record) -> Record:
    """The record of a row of `parked`, as it was read from Kafka. Only its time is cut to what Postgres can store."""
    headers: ReceivedHeaders = [(name, base64.b64decode(value)) for name, value in orjson.loads(row["headers"])]
    at = int(row["recorded_at"].timestamp() * 1000)
    return Record(row["topic"], row["partition"], row["offset"], at, row["raw_key"], row["value"], headers)


def storable(text: str) -> str:
    """The text without NUL, which Postgres cannot store."""
    return text.replace("\x00", "\ufffd")


def _letter(consumer: str, one: Parked) -> events.Encoded:
    """The copy of a parked record, for people with a console consumer: text where possible, base64 elsewhere."""
    record = one.record
    letter = {
        "consumer": consumer,
        "error": one.error[:2000],
        "attempts": one.attempts,
        "key": one.key[:500],
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "headers": {name: readable(value) for name, value in record.headers},
        "value": readable(record.value),
    }
    value = orjson.dumps(letter)
    if len(value) > outbox.MAX_BYTES * 2 - 1000:
        value = orjson.dumps({**letter, "headers": {}, "value": "too large for a copy: see the table parked"})
    return events.envelope(record.topic + outbox.DEAD_LETTER_SUFFIX, one.key[:500], "DeadLetter", value)


def readable(value: bytes | None) -> str | None:
    """The text of raw bytes, or their base64 after `base64:`."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value or b"").decode()
