"""Records that aiokafka cannot decode arrive as broken records, and every good record arrives beside them."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from asyncpg import Pool

from contracts.orders import OrderConfirmed
from shared.delivery import events
from shared.delivery.consumer import Consumer
from shared.delivery.handling import Handling
from shared.delivery.kafka import Subscription, broken, create_topics
from shared.postgres import Connection
from tests.builders import eventually, order_confirmed

pytestmark = pytest.mark.slow

Headers = list[tuple[str, bytes]]


class NotText(str):
    """The name of a header that is written as bytes that are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: object) -> bytes:  # type: ignore[override]
        return b"\xff\xfe"


def batch(*records: tuple[bytes, bytes, Headers], codec: int = 0) -> bytes:
    """A batch of records in Kafka's format."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, False, -1, -1, 0, 1_000_000)
    for n, (key, value, headers) in enumerate(records):
        builder.append(n, 1_700_000_000_000, key, value, headers)
    return bytes(builder.build())


def event(order_id: int, *more: tuple[str, bytes]) -> tuple[bytes, bytes, Headers]:
    e = events.encode(order_confirmed(order_id))
    key = e.key.encode()
    return key, e.value, [*events.headers(events.static_headers(e.type, "/test"), key, e.head), *more]


def read(data: bytes) -> list[Any]:
    records, found = broken._Records(data), []
    while records.has_next():
        found += list(records.next_batch())
    return found


@pytest.mark.parametrize("codec", [0, 1, 4], ids=["plain", "gzip", "zstd"])
def test_a_header_name_that_is_not_text_marks_its_record_and_no_other(codec: int) -> None:
    data = batch(event(1), event(2, (NotText("x"), b"1")), event(3), codec=codec)
    first, second, third = read(data)

    assert [first.offset, second.offset, third.offset] == [0, 1, 2]
    assert second.headers[0] == (events.BROKEN, b"the name of a header is not UTF-8")
    assert (second.key, second.value) == event(2)[:2]
    assert not [name for good in (first, third) for name, _ in good.headers if name == events.BROKEN]


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "checksum": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "codec": lambda data: data[:22] + b"\x07" + data[23:],
}


@pytest.mark.parametrize("corrupt", CORRUPT.values(), ids=CORRUPT)
def test_a_batch_that_cannot_be_read_is_fetched_again_and_then_one_broken_record(
    corrupt: Callable[[bytes], bytes],
) -> None:
    good, bad = batch(event(1)), corrupt(batch(event(2), event(3)))
    for _ in range(broken._TRIES - 1):
        with pytest.raises(CorruptRecordException):
            read(good + bad)
    *_, one = read(good + bad)

    assert (one.offset, one.value) == (1, bad)
    assert one.headers[0][0] == events.BROKEN


async def test_a_record_that_cannot_be_decoded_is_parked_and_the_others_are_handled(pool: Pool, kafka: str) -> None:
    topic, handled = f"test-{uuid4().hex[:8]}", list[int]()
    await create_topics(kafka, {topic: {}}, 1, 1)
    records = [event(n, *[(NotText("x"), b"1")] * (n == 50)) for n in range(1, 101)]
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        builder = producer.create_batch()
        builder._builder = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, 0, 1_000_000)
        for key, value, headers in records:
            builder.append(key=key, value=value, timestamp=None, headers=headers)
        await (await producer.send_batch(builder, topic, partition=0))

    async def note(conn: Connection, given: list[OrderConfirmed]) -> None:
        handled.extend(one.order_id for one in given)

    consumer = Consumer(
        lambda: Subscription(kafka, topic, [topic], "", 100), Handling(pool, "broken", {OrderConfirmed: note})
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run(stop))

        async def all_done() -> bool:
            return len(handled) == 99

        await eventually(all_done)
        stop.set()
    await consumer.close()
    (parked,) = await pool.fetch('select "offset", key, error, blocks from parked')
    assert handled == [n for n in range(1, 101) if n != 50]
    assert (parked["offset"], parked["key"], parked["blocks"]) == (49, "50", False)
    assert "not UTF-8" in parked["error"]
