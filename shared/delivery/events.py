"""The envelope: an event becomes a CloudEvents 1.0 record in Kafka's binary mode, and a record becomes an event.

What must stay true: id, time and trace of an event are fixed when the event is encoded. So an event that is published
twice is the same to the last byte.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, NamedTuple, Protocol
from uuid import UUID
from zlib import crc32

from pydantic import BaseModel, ValidationError
from uuid_utils.compat import uuid7

from .. import tracing

Headers = list[tuple[str, bytes]]
ReceivedHeaders = list[tuple[str, bytes | None]]
"""In Kafka the value of a header may be null."""

Key = tuple[str, str]
"""Aggregate type and key. Together they identify one aggregate among all topics."""

BROKEN = "broken"
"""The first header of a record that could not be decoded. It says why; the value may be a whole batch, as raw bytes."""

MAX_KEY = 500  # what Postgres can index
_ID, _TIME = 36, 27  # widths of a UUID and of 2026-01-31T12:00:00.123456Z in ASCII


class Event(Protocol):
    """What the toolkit needs of an event: a pydantic model with the names of its topic and of its key field."""

    topic: ClassVar[str]
    key_field: ClassVar[str]

    def model_dump_json(self) -> str:
        """The record's value, readable JSON."""


class Encoded(NamedTuple):
    """An event as the outbox stores it. `hash` decides lane and partition; `head` is id, time and traceparent."""

    hash: int
    event_id: UUID
    topic: str
    key: str
    type: str
    head: bytes
    value: bytes


class Record(NamedTuple):
    """A Kafka record as it was read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: ReceivedHeaders


@dataclass(frozen=True, slots=True)
class Received:
    """A record that was decoded into an event."""

    event_id: UUID
    key: str
    event: BaseModel
    record: Record
    traceparent: str = ""
    """The traceparent of the events that follow from this one."""

    @property
    def blocking_key(self) -> Key:
        """If this event is parked, later events with the same pair must wait behind it."""
        return self.aggregate, self.key

    @property
    def aggregate(self) -> str:
        """The kind of thing that the key identifies: the topic, because all its events have the same kind of key."""
        return self.record.topic


class Undecodable(Exception):
    """The record is not a valid event. The text is the reason. `event_id` is its id if only the type is unknown."""

    def __init__(self, reason: str, event_id: UUID | None = None) -> None:
        super().__init__(reason)
        self.event_id = event_id


def hash_of(key: str) -> int:
    """31 bits of CRC-32. It takes 0.1 us; murmur2 in Python takes 4 to 6 us. Only our own producers need to agree."""
    return crc32(key.encode()) & 0x7FFFFFFF


def encode(event: Event) -> Encoded:
    """Put the event into its envelope: a UUIDv7, the time, and the traceparent that `carrying` set for its key."""
    key = str(getattr(event, event.key_field))
    return envelope(event.topic, key, type(event).__name__, event.model_dump_json().encode())


def envelope(topic: str, key: str, type_: str, value: bytes) -> Encoded:
    """Put a JSON value into the envelope of an event of type `type_`."""
    event_id = uuid7()
    head = f"{event_id}{text_of(datetime.now(UTC))}{tracing.of(key)}".encode()
    return Encoded(hash_of(key), event_id, topic, key, type_, head, value)


def static_headers(type_: str, source: str) -> Headers:
    """The headers that all events of one type share. Build them once per type: headers are the relay's main cost."""
    return [
        ("ce_type", type_.encode()),
        ("ce_source", source.encode()),
        ("ce_specversion", b"1.0"),
        ("content-type", b"application/json"),
    ]


def headers(static: Headers, key: bytes, head: bytes) -> Headers:
    """All headers of one record: those of its type, and those in `head`."""
    found = [*static, ("ce_id", head[:_ID]), ("ce_time", head[_ID : _ID + _TIME]), ("ce_subject", key)]
    if len(head) > _ID + _TIME:
        found.append(("traceparent", head[_ID + _TIME :]))
    return found


def type_of(record: Record) -> str | None:
    """The event type in the record's headers, or None."""
    for name, value in record.headers:
        if name == "ce_type" and value is not None:
            return value.decode(errors="replace")
    return None


def id_of(record: Record) -> UUID | None:
    """The event id in the record's headers, or None."""
    for name, value in record.headers:
        if name == "ce_id" and value is not None:
            with suppress(ValueError):
                return UUID(value.decode())
    return None


def ids_of(record: Record) -> dict[str, str]:
    """The ids of a record for a log line: those of the event and of its trace, as far as it has them."""
    event_id = id_of(record)
    known = {"event_id": str(event_id)} if event_id else {}
    return known | tracing.ids(_traceparent(dict(record.headers).get("traceparent")))


def _traceparent(header: bytes | None) -> str | None:
    return tracing.valid(header[:56].decode("ascii", "replace")) if header else None


def decode(record: Record, model: type[BaseModel]) -> Received:
    """Decode a record into an event of `model`. Raises `Undecodable`."""
    known = {name: value for name, value in record.headers if value is not None}
    try:
        event_id = UUID(known["ce_id"].decode())
        event = model.model_validate_json(record.value or b"")
        key = (record.key or b"").decode()
    except KeyError:
        raise Undecodable("header ce_id is missing") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise Undecodable(f"value: {'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}") from None
    except ValueError as error:
        raise Undecodable(f"ce_id or key: {error}") from None
    expected = str(getattr(event, model.key_field))  # type: ignore[attr-defined]  # every event has one
    if len(key) > MAX_KEY:
        raise Undecodable(f"key has {len(key)} characters; {MAX_KEY} at most")
    if key != expected:
        raise Undecodable(f"key is {key!r:.60}, but the value has {expected!r:.60}")
    return Received(event_id, key, event, record, _traceparent(known.get("traceparent")) or "")


def traceparents_of(received: Iterable[Received]) -> dict[str, str]:
    """The traceparents of a batch, by event key. If a key has several events, the last one counts."""
    return {r.key: r.traceparent for r in received if r.traceparent}


def text_of(moment: datetime) -> str:
    """A time in UTC as RFC 3339, with a fixed width."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def traceparent_of(head: bytes) -> str:
    """The traceparent of the event, or an empty text."""
    return head[_ID + _TIME :].decode()


def text_of_id(head: bytes) -> str:
    """The id of the event, as in its header `ce_id`."""
    return head[:_ID].decode()


def time_of(head: bytes) -> str:
    """The time of the event, as in its header `ce_time`."""
    return head[_ID : _ID + _TIME].decode()
