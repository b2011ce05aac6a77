"""Small helpers for tests: polling, events and records."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import orjson
from aiokafka import AIOKafkaConsumer

from contracts.orders import OrderConfirmed, OrderCreated
from shared.delivery import events
from shared.delivery.events import Event, Record
from shared.delivery.kafka import Brokers
from shared.delivery.kafka.brokers import options
from shared.delivery.kafka.clients import hard_stop

_offsets = count()


async def eventually(check: Callable[[], Awaitable[Any]], seconds: float = 20.0, pause: float = 0.02) -> Any:
    """Poll `check` until it returns a true value, and return that value."""
    async with asyncio.timeout(seconds):
        while not (found := await check()):  # noqa: ASYNC110  # there is nothing to wait on
            await asyncio.sleep(pause)
    return found


def order_created(order_id: int = 1, **changes: Any) -> OrderCreated:
    """An order of two burgers, with these changes."""
    fields: dict[str, Any] = {
        "version": 1,
        "order_id": order_id,
        "user_id": "u1",
        "sku": "burger",
        "quantity": 2,
        "note": "",
        "product": {"sku": "burger"},
        "amount_cents": 1700,
        "currency": "EUR",
        "expires_at": datetime.now(UTC) + timedelta(minutes=1),
    }
    return OrderCreated(**(fields | changes))


def order_confirmed(order_id: int = 1, version: int = 2) -> OrderConfirmed:
    """A small event of the order `order_id`."""
    return OrderConfirmed(version=version, order_id=order_id, sku="burger", quantity=2)


def record(event: Event, *, source: str = "/test", partition: int = 0, offset: int | None = None) -> Record:
    """The Kafka record that a relay makes of an event; each call creates a new event id."""
    encoded = events.encode(event)
    key = encoded.key.encode()
    headers = events.headers(events.static_headers(encoded.type, source), key, encoded.head)
    at = int(datetime.now(UTC).timestamp() * 1000)
    where = next(_offsets) if offset is None else offset
    return Record(encoded.topic, partition, where, at, key, encoded.value, list(headers))


def with_header(one: Record, name: str, value: bytes) -> Record:
    """The record with another value of one header."""
    return one._replace(headers=[(n, value if n == name else v) for n, v in one.headers])


def id_at(moment: datetime, n: int = 0) -> UUID:
    """A UUIDv7 of a time. `n` tells ids of one time apart."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | n)


Tail = Callable[[], Awaitable[list[Record]]]


@asynccontextmanager
async def tail(brokers: Brokers | str, topic: str, *, from_the_beginning: bool = False) -> AsyncIterator[Tail]:
    """Yield a function that returns all records since this began, in order within each partition."""
    consumer = AIOKafkaConsumer(topic, **options(brokers), enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        seen: list[Record] = []
        starts = await (consumer.beginning_offsets if from_the_beginning else consumer.end_offsets)(partitions)
        for partition in partitions:
            consumer.seek(partition, starts[partition])

        async def read() -> list[Record]:
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(p) < ends[p] for p in partitions]):
                found = await consumer.getmany(timeout_ms=200)
                seen.extend(as_record(r) for records in found.values() for r in records)
            return seen

        yield read
    finally:
        await hard_stop(consumer, consumer._client, [])


def as_record(r: Any) -> Record:
    """An aiokafka record as a `Record`."""
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers))


def versions_by_key(records: Sequence[Record]) -> dict[str, list[int]]:
    """The versions of each key's events, in the order of the partition."""
    found: dict[str, list[int]] = {}
    for r in records:
        found.setdefault((r.key or b"").decode(), []).append(orjson.loads(r.value or b"")["version"])
    return found
