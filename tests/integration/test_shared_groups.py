"""Consumer groups seen from outside: what they have not handled, and how they skip it, but never while they run."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from contracts import topics
from contracts.orders import TOPIC
from shared.delivery import kafka as toolkit
from shared.delivery.kafka import Publisher, Subscription, Unavailable
from tests.builders import eventually

PARTS = 2


@pytest.fixture
async def publisher(kafka: str) -> AsyncIterator[Publisher]:
    await topics.create(kafka, PARTS, 1)
    made = Publisher(kafka)
    await made.start()
    yield made
    await made.close()


async def send(publisher: Publisher, *values: bytes) -> None:
    await publisher.send({(TOPIC, n % PARTS): [(b"k", value, [])] for n, value in enumerate(values)}, 5.0)


async def test_a_group_skips_what_is_there_only_when_no_member_is_left(kafka: str, publisher: Publisher) -> None:
    await send(publisher, b"1", b"2")
    member = Subscription(kafka, "skipping", [TOPIC], "", 500)
    await member.start()
    await eventually(lambda: member.poll(0.1))
    with pytest.raises(Unavailable):
        await toolkit.skip(kafka, "skipping", [TOPIC])
    await member.close()
    assert await unhandled(kafka) == 2
    assert await toolkit.skip(kafka, "skipping", [TOPIC]) == 2
    assert await unhandled(kafka) == 0
    await send(publisher, b"3")
    assert await unhandled(kafka) == 1


async def test_only_records_since_a_time_are_read(kafka: str, publisher: Publisher) -> None:
    await send(publisher, b"before", b"before")
    await asyncio.sleep(0.01)  # Kafka's times have milliseconds
    since = datetime.now(UTC)
    await send(publisher, b"after", b"after")
    found = [record async for some in toolkit.read_since(kafka, [TOPIC], since) for record in some]
    assert [record.value for record in found] == [b"after", b"after"]


async def unhandled(address: str) -> int:
    return (await toolkit.count_unhandled(address, {"skipping": [TOPIC]}, [TOPIC]))["skipping"]
