"""What the tests of shipping do outside of it: migrate its database, publish orders, and look at what it sent."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

from examples.shipping import topics
from examples.shipping.contracts import ORDERS, TOPIC
from shared.delivery import kafka
from shared.delivery.events import Record, id_of
from shared.delivery.kafka import Brokers
from tests.builders import eventually, tail
from tests.conftest import PARTITIONS, ROOT, Database


async def migrate(database: Database, *arguments: str) -> None:
    """Run Alembic as the page does."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "-c", "examples/shipping/alembic.ini", *arguments),
        cwd=ROOT,
        env={**os.environ, "ADMIN_DATABASE_URL": database.admin_url},
    )
    assert await child.wait() == 0


async def create_topics(address: str) -> None:
    await kafka.create_topics(address, topics.TOPICS, PARTITIONS, 1)


async def publish(address: str, records: Iterable[Record]) -> None:
    """Publish records to the topic of orders."""
    async with AIOKafkaProducer(bootstrap_servers=address) as producer:
        await asyncio.gather(*[await producer.send(ORDERS, r.value, key=r.key, headers=r.headers) for r in records])


async def values(database: Database, query: str) -> set[Any]:
    """The values of the first column."""
    conn = await asyncpg.connect(database.admin_url)
    try:
        return {row[0] for row in await conn.fetch(query)}
    finally:
        await conn.close()


async def parcels(database: Database) -> set[int]:
    """The orders that have a parcel."""
    return await values(database, "select order_id from shipping.parcels")


async def events_by_order(brokers: Brokers | str, orders: set[int]) -> dict[int, int]:
    """Wait until each order has an event on the topic, and count its events. A repeated record has the same id."""
    async with tail(brokers, TOPIC, from_the_beginning=True) as read:

        async def all_published() -> Counter[int] | None:
            found = Counter(int(key) for key, _ in {(one.key or b"", id_of(one)) for one in await read()})
            return found if found.keys() >= orders else None

        found = await eventually(all_published)
    return {order: found[order] for order in orders}
