"""Poison never blocks other events: it is parked alone, with a dead letter, and everything else is handled."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer

from contracts.inventory import InventoryRejected, InventoryReserved
from contracts.orders import OrderCancelled
from contracts.payments import PaymentFailed, PaymentSucceeded
from shared.delivery.events import Event, Record
from tests.acceptance.checker import HANDLED, SERVICES, Poison, header
from tests.acceptance.client import Load, ids, wrong_answers
from tests.acceptance.conftest import System
from tests.builders import order_confirmed, order_created, record

MISSING_ORDER = 4_000_000_000_000_000_000  # an order that does not exist

UNKNOWN = "FromTheFuture"
OPTIONAL = {"payment_reference"}
"""Fields that events of earlier releases do not have."""

Raw = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]
"""Topic, key, value and headers."""

EVENTS: list[Event] = [
    order_created(MISSING_ORDER),
    order_confirmed(MISSING_ORDER),
    OrderCancelled(version=2, order_id=MISSING_ORDER, sku="burger", quantity=2, reason="out_of_stock"),
    InventoryReserved.model_validate(order_created(MISSING_ORDER).model_dump()),
    InventoryRejected(version=1, order_id=MISSING_ORDER, sku="burger", quantity=2, reason="out_of_stock"),
    PaymentSucceeded(version=1, order_id=MISSING_ORDER, amount_cents=1, currency="EUR", provider_ref="x"),
    PaymentFailed(version=1, order_id=MISSING_ORDER, reason="payment_declined"),
]


def values(good: bytes) -> Iterator[bytes | None]:
    """Values that are no valid event."""
    fields = orjson.loads(good)
    yield from (
        None,
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"7",
        good[:-5],
        good + b"x",
        b"\xef\xbb\xbf" + good,
        b"\xff\xfe\x00",
    )
    yield from (b"[" * 100_000, b"{" * 1000, good.decode().encode("utf-16"), b"x" * 900_000, b"NaN")
    for name in fields.keys() - OPTIONAL:
        yield orjson.dumps({key: value for key, value in fields.items() if key != name})
    for wrong in (b"0", b"-1", b"2147483648", b"1.5", b"1.0", b"true", b'"1"', b"null"):
        yield good.replace(b'"version":%d' % fields["version"], b'"version":' + wrong)
    for wrong in (b"0", b"-5", b"9223372036854775808", b"1e18", b"4.5", b"[1]", b"9" * 5000, b"null"):
        yield good.replace(b'"order_id":%d' % MISSING_ORDER, b'"order_id":' + wrong)
    for name in ("sku", "currency", "user_id", "provider_ref"):
        if name in fields:
            yield orjson.dumps(fields | {name: "a\x00b"})
            yield orjson.dumps(fields | {name: 5})
    if "quantity" in fields:
        yield from (orjson.dumps(fields | {"quantity": wrong}) for wrong in (0, -1, 2**31, 1.0, None))
    if "reason" in fields:
        yield from (orjson.dumps(fields | {"reason": wrong}) for wrong in ("because", None, 1))


def envelopes(good: Record) -> Iterator[tuple[bytes | None, list[tuple[str, bytes | None]]]]:
    """Keys and headers that do not fit the event."""
    headers = list(good.headers)

    def changed(name: str, value: bytes | None) -> list[tuple[str, bytes | None]]:
        return [(n, value if n == name else v) for n, v in headers]

    def without(name: str) -> list[tuple[str, bytes | None]]:
        return [(n, v) for n, v in headers if n != name]

    for key in (None, b"", b"1", b"\xff\xfe", b"\x00", b"k" * 5000, str(MISSING_ORDER).encode() + b" "):
        yield key, headers
    yield good.key, without("ce_id")
    for id_ in (None, b"", b"x", b"\xff", str(uuid4()).encode(), b"0" * 36, b"ffffffff-ffff-7fff-bfff-ffffffffffff"):
        yield good.key, changed("ce_id", id_)
    yield good.key, []
    yield good.key, without("ce_type")
    yield good.key, changed("ce_type", None)


def poisons() -> Iterator[Raw]:
    """All poison records; each has its own event id, unless the id is the defect."""
    for event in EVENTS:
        good = record(event, source="/poison")
        for value in values(good.value or b""):
            yield good.topic, good.key, value, list(record(event).headers)
        for key, headers in envelopes(good):
            yield good.topic, key, good.value, headers
        if isinstance(event, PaymentSucceeded | PaymentFailed | InventoryRejected):
            # A valid event, but the order does not exist.
            yield good.topic, good.key, good.value, list(record(event).headers)
        yield good.topic, good.key, good.value, [*list(good.headers)[1:], ("ce_type", UNKNOWN.encode())]


def parked_by(topic: str, type_: str) -> frozenset[str]:
    """The services that must park such a record.

    These are the services that handle the type. Without a known type, they are all consumers of the topic.
    """
    if type_ in {"", UNKNOWN}:
        return frozenset(s for s in SERVICES if topic in {t for t, _ in HANDLED[s]})
    return frozenset(s for s in SERVICES if (topic, type_) in HANDLED[s])


@asynccontextmanager
async def producer(system: System) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(**system.kafka.options(), max_request_size=1_000_000)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_poison_is_parked_and_all_other_events_are_handled(system: System) -> None:
    chance = random.Random(3)
    chosen = list(poisons())
    chance.shuffle(chosen)
    async with system.customers() as client, producer(system) as kafka:
        serving = asyncio.create_task(Load(client, per_second=35).run(250))
        for n, (topic, key, value, headers) in enumerate(chosen):
            sent = await kafka.send_and_wait(topic, value, key, partition=n % 4, headers=headers)
            type_ = header(Record(topic, 0, 0, 0, key, value, headers), "ce_type")
            system.poison.append(Poison((topic, sent.partition, sent.offset), parked_by(topic, type_)))
            await asyncio.sleep(0.01)
        await serving
    evidence = await system.settled()
    assert not wrong_answers(client.history)
    assert len(ids(client.history)) == 250
    assert len(evidence.parked) > 200


async def test_delivering_every_past_event_again_has_no_effect(system: System) -> None:
    before = await system.settled()
    async with producer(system) as kafka:
        for old in before.ours:
            if old.topic.endswith(".events"):
                await kafka.send(old.topic, old.value, old.key, partition=old.partition, headers=old.headers)
        await kafka.flush()
    after = await system.settled()
    assert len(after.ours) > 1.9 * len(before.ours) - len(before.parked) * 2
    assert (after.orders, after.reservations, after.payments) == (before.orders, before.reservations, before.payments)
    assert (after.movements, after.stock, after.outbox) == (before.movements, before.stock, before.outbox)
