"""A service's share of the delivery: its relay, its consumer and its partitions, started and ended in order.

What must stay true: on the way down consumers stop before the relay, and the relay before the pool.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import BaseModel

from shared.delivery import partitions
from shared.delivery.consumer import Consumer, Handler, Handling
from shared.delivery.kafka import Subscription
from shared.delivery.relay import Relay
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.backoff import wait
from shared.process.configuration import Settings
from shared.process.run import Beat, Tasks

_HINT_SECONDS = 0.02
_IDLE_SECONDS = 0.25  # how long stopping may go unnoticed while nothing is committed


@asynccontextmanager
async def outgoing(tasks: Tasks, settings: Settings, pool: Pool, service: str) -> AsyncIterator[Callable[[], None]]:
    """Run the relay and make partitions, if this process is to; yields what to call after a commit with new events."""
    async with AsyncExitStack() as stack:
        if "relay" not in settings.only:
            hint = Hint(pool, service)
            stack.push_async_callback(tasks.start("hint", hint.run))
            yield hint.wake
            return
        relay = Relay(
            settings.database_url,
            settings.kafka_bootstrap_servers,
            service=service,
            owner=settings.owner,
            source=settings.event_source,
            pace_seconds=settings.relay_pace_seconds,
            lease_seconds=settings.relay_lease_seconds,
        )
        stack.push_async_callback(relay.close)
        stack.push_async_callback(tasks.start("relay", relay.run))
        stack.push_async_callback(tasks.start("partitions", lambda stop, beat: partitions.run(pool, stop, beat)))
        yield relay.wake


@asynccontextmanager
async def incoming(
    tasks: Tasks,
    settings: Settings,
    pool: Pool,
    service: str,
    topics: Sequence[str],
    handlers: Mapping[type[BaseModel], Handler],
    committed: Callable[[], None],
    also_lock: Sequence[str] = (),
) -> AsyncIterator[None]:
    """Run the consumer, if this process is to; `committed` is called after each of its commits."""
    async with AsyncExitStack() as stack:
        if "consumer" in settings.only:

            def subscribe() -> Subscription:
                servers, batch = settings.kafka_bootstrap_servers, settings.consumer_batch
                return Subscription(servers, service, topics, settings.instance_id, batch)

            consumer = Consumer(
                subscribe, Handling(pool, service, handlers, committed, also_lock), settings.consumer_pace_seconds
            )
            stack.push_async_callback(consumer.close)
            stack.push_async_callback(tasks.start("consumer", consumer.run))
        yield


class Hint:
    """Tells relays in other processes, by NOTIFY, that rows wait; many commits share one, which is only a hint."""

    def __init__(self, pool: Pool, service: str) -> None:
        self._pool, self._channel = pool, f"{service}_outbox"
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Say that this process has committed new rows."""
        self._woken.set()

    async def run(self, stop: asyncio.Event, beat: Beat) -> None:
        """Notify at most once every `_HINT_SECONDS`, until `stop`."""
        while not stop.is_set():
            beat()
            if await wait(self._woken, _IDLE_SECONDS):
                self._woken.clear()
                with contextlib.suppress(*db.ERRORS):
                    await self._pool.execute("select pg_notify($1, '')", self._channel, timeout=1.0)
                await asyncio.sleep(_HINT_SECONDS)
