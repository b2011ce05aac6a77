"""More lanes for an outbox, and more partitions for the topics, while the services run.

What must stay true: the events of a key are handled in order. Before a key moves to another partition, no relay sends,
and everything that was sent is handled.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from contracts.access import READS, WRITES
from contracts.catalogue import TOPICS
from shared.delivery import kafka, outbox, schema
from shared.delivery.kafka import Brokers

PAUSED = "(more partitions)"
"""The owner of all lanes while no relay may send."""
_PAUSE_SECONDS, _DRAIN_SECONDS = 300, 120.0

_PAUSE = f"""
update outbox_lanes set owner = '{PAUSED}', epoch = epoch + 1, lease_until = now() + interval '{_PAUSE_SECONDS} s'
"""
_RESUME = f"update outbox_lanes set owner = null, lease_until = '-infinity' where owner = '{PAUSED}'"


class NotDrained(Exception):
    """Consumers have not handled all that was sent. Nothing was changed."""


async def add_lanes(url: str, service: str, lanes: int) -> None:
    """Give the outbox of a service so many lanes. Its writers wait meanwhile, at most some seconds."""
    conn = await asyncpg.connect(url)
    try:
        async with conn.transaction():
            await conn.execute(f"set local role {service}_owner; set local search_path = {service}")
            await conn.execute("set local lock_timeout = '5s'")
            for statement in schema.more_lanes(lanes):
                await conn.execute(statement)
    finally:
        await conn.close()


async def add_partitions(url: str, brokers: Brokers | str, partitions: int) -> list[str]:
    """Give every topic so many partitions. Returns the topics that had fewer. Raises `NotDrained`, `Unavailable`.

    Services accept requests meanwhile; their events wait in the outboxes.
    """
    async with _paused(url):
        await _drained(brokers)
        letters = [topic + outbox.DEAD_LETTER_SUFFIX for topic in TOPICS]
        return await kafka.add_partitions(brokers, [*TOPICS, *letters], partitions)


@asynccontextmanager
async def _paused(url: str) -> AsyncIterator[None]:
    """Take all lanes, so that no relay sends. If this process ends, relays take them back after some minutes."""
    conn = await asyncpg.connect(url)
    try:
        await _on_lanes(conn, _PAUSE)
        yield
    finally:
        await _on_lanes(conn, _RESUME)
        await conn.close()


async def _on_lanes(conn: asyncpg.Connection, statement: str) -> None:
    for service in WRITES:
        await conn.execute(statement.replace("outbox_lanes", f"{service}.outbox_lanes"))


async def _drained(brokers: Brokers | str) -> None:
    until = time.monotonic() + _DRAIN_SECONDS
    while left := _some(await kafka.count_unhandled(brokers, READS, TOPICS)):
        if time.monotonic() > until:
            raise NotDrained(f"records that are not handled, by consumer group: {left}")
        await asyncio.sleep(0.2)


def _some(left: dict[str, int]) -> dict[str, int]:
    return {group: count for group, count in left.items() if count}
