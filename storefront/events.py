"""Reads the events about orders from Kafka into memory. It is in no group, so no service notices it."""

import asyncio

from contracts import inventory, orders, payments
from shared.delivery import kafka
from shared.delivery.kafka import Brokers, Tail
from shared.process.loop import Beat, repeat
from storefront.memory import Memory

TOPICS = (orders.TOPIC, inventory.TOPIC, payments.TOPIC)

_POLL_SECONDS = 1.0


class Events:
    def __init__(self, brokers: Brokers, memory: Memory) -> None:
        self._brokers, self._memory = brokers, memory
        self._tail: Tail | None = None
        self.has_begun = False
        """True when the events of a new order cannot be missed any more."""

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Read until `stop` is set. After trouble with Kafka, connect again, with back-off."""
        trouble = (kafka.Unavailable,)
        await repeat("reading of events", self._turn, stop, beat, trouble=trouble, on_trouble=self.close)

    async def close(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            await tail.close()

    async def _turn(self) -> float:
        if self._tail is None:
            self._tail = Tail(self._brokers, TOPICS)
            await self._tail.start()
            self.has_begun = True
        self._memory.add(await self._tail.poll(_POLL_SECONDS))
        return 0.0
