"""Reading topics from their end: only new records, no group, new partitions, a broker that comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from contracts import topics
from shared.delivery import events
from shared.delivery.kafka import Publisher, Tail, Unavailable, create_topics
from shared.delivery.kafka import tail as tail_module
from storefront.events import Events
from storefront.memory import Memory
from tests.builders import eventually, order_confirmed
from tests.conftest import Broker, StartBroker


async def new_topic(address: str) -> str:
    name = f"test-{uuid4().hex[:8]}"
    await create_topics(address, {name: {}}, 2, 1)
    return name


async def publish(address: str, topic: str, order_id: int, partition: int = 0) -> None:
    publisher = Publisher(address)
    await publisher.start()
    one = events.encode(order_confirmed(order_id))
    headers = events.headers(events.static_headers(one.type, "/test"), one.key.encode(), one.head)
    await publisher.send({(topic, partition): [(one.key.encode(), one.value, headers)]}, 10.0)
    await publisher.close()


@asynccontextmanager
async def reading(address: str, topic: str) -> AsyncIterator[Tail]:
    tail = Tail(address, [topic])
    try:
        await tail.start()
        yield tail
    finally:
        await tail.close()


async def keys(tail: Tail, count: int) -> list[bytes | None]:
    """The keys of the next records."""
    found: list[bytes | None] = []

    async def enough() -> bool:
        found.extend(record.key for record in await tail.poll(0.2))
        return len(found) >= count

    await eventually(enough)
    return found


async def test_only_records_that_come_after_the_start_are_read(kafka: str) -> None:
    topic = await new_topic(kafka)
    await publish(kafka, topic, 1)
    async with reading(kafka, topic) as tail:
        await publish(kafka, topic, 2)
        await publish(kafka, topic, 3, partition=1)
        assert sorted(map(str, await keys(tail, 2))) == ["b'2'", "b'3'"]
        assert await tail.poll(0.1) == []


async def test_it_is_in_no_group(kafka: str) -> None:
    topic = await new_topic(kafka)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    before = await admin.list_consumer_groups()
    async with reading(kafka, topic) as tail:
        await publish(kafka, topic, 1)
        await keys(tail, 1)
        assert await admin.list_consumer_groups() == before
    await admin.close()


async def test_a_new_partition_is_read(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "_METADATA_MS", 300)
    topic = await new_topic(kafka)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    async with reading(kafka, topic) as tail:
        await admin.create_partitions({topic: NewPartitions(3)})

        async def is_read() -> bool:
            await publish(kafka, topic, 7, partition=2)
            return any(record.partition == 2 for record in await tail.poll(0.5))

        await eventually(is_read)
    await admin.close()


async def test_a_topic_that_does_not_exist_is_unavailable(kafka: str) -> None:
    tail = Tail(kafka, ["test-none"])
    with pytest.raises(Unavailable):
        await tail.start()
    await tail.close()


@pytest.mark.slow
async def test_after_the_broker_was_killed_new_events_are_read_again(start_broker: StartBroker) -> None:
    broker: Broker = start_broker("kafka-tail")
    await topics.create(broker.address, 2, 1)
    memory, stop = Memory(), asyncio.Event()
    made = Events(broker.address, memory)
    running = asyncio.create_task(made.run(stop))

    async def sees(order_id: int) -> bool:
        await publish(broker.address, "orders.events", order_id)
        return bool(memory.of(order_id))

    await eventually(lambda: sees(1))
    await asyncio.to_thread(broker.server.kill)
    await asyncio.to_thread(broker.server.start)
    await eventually(lambda: sees(2), seconds=60)
    assert not running.done()
    stop.set()
    await running
    await made.close()
