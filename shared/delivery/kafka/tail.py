"""Reading topics from their end, without a group: for a viewer, which commits nothing and may miss events."""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer

from ..events import Record
from . import broken  # noqa: F401 - it repairs aiokafka
from .brokers import Brokers, options
from .clients import START_SECONDS, Unavailable, bounded, fetch, record_of, stop_consumer

_BATCH = 500
_WAIT_MS = 2_000
"""How long a broker waits for new records before it answers with none. New records are answered at once."""
_METADATA_MS = 30_000
"""How often it looks for new partitions."""


class Tail:
    """Reads all partitions of some topics. A new partition is read within half a minute.

    After `Unavailable`, close it and create another, which starts at the end again.
    """

    def __init__(self, brokers: Brokers | str, topics: Iterable[str]) -> None:
        self._consumer = AIOKafkaConsumer(
            *topics,
            **options(brokers),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_max_wait_ms=_WAIT_MS,
            fetch_max_bytes=4 * 2**20,
            request_timeout_ms=10_000,
            metadata_max_age_ms=_METADATA_MS,
        )

    async def start(self) -> None:
        """Connect, and find the end of each partition. Records that come from now on are read. Raises `Unavailable`."""
        await bounded(self._consumer.start(), START_SECONDS)
        if not await bounded(self._consumer.seek_to_end(), START_SECONDS):
            raise Unavailable("the end of a topic was not found in time")

    async def poll(self, wait_seconds: float) -> list[Record]:
        """Read new records. Waits at most `wait_seconds` for the first. Raises `Unavailable`."""
        found = await fetch(self._consumer, wait_seconds, _BATCH)
        return [record_of(one) for records in found.values() for one in records]

    async def close(self) -> None:
        """Stop, in a few seconds, whatever the broker does."""
        await stop_consumer(self._consumer)
