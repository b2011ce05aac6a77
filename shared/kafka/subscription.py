"""Reading as a member of a consumer group, without ever handling what another member owns by now."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from shared.events import Record
from shared.kafka.clients import START_SECONDS, Partition, Unavailable, bounded, hard_stop

log = structlog.get_logger()

Offsets = dict[TopicPartition, int]

COMMIT_SECONDS = 3.0
COMMIT_EVERY_SECONDS = 0.2


class Subscription:
    """Membership in a consumer group. The gate keeps handling and rebalancing apart.

    It is open while partitions are owned. Handling holds it; a rebalance waits for it, commits what was handled, and
    keeps it closed until partitions are assigned anew. `getmany` stays outside: inside, it deadlocks.
    """

    def __init__(self, bootstrap_servers: str, group: str, topics: Iterable[str], instance_id: str, batch: int) -> None:
        self._topics, self._batch = list(topics), batch
        self._gate = _Gate(self._commit)
        self._handled: Offsets = {}
        self._commit_at = 0.0
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            group_id=group,
            group_instance_id=instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=500,
            max_poll_interval_ms=60_000,
            metadata_max_age_ms=3_000,  # or a topic that was made again is not noticed
            fetch_max_wait_ms=500,
            request_timeout_ms=10_000,
        )

    async def start(self) -> None:
        """Join the group. Raises `Unavailable`."""
        self._consumer.subscribe(self._topics, listener=self._gate)
        await bounded(self._consumer.start(), START_SECONDS)

    @property
    def owned(self) -> frozenset[Partition]:
        """The partitions that this member may handle now."""
        return frozenset((tp.topic, tp.partition) for tp in self._gate.owned)

    async def poll(self, wait_seconds: float) -> "Batch":
        """Fetch records, waiting at most so long for the first. Raises `Unavailable`."""
        fetching = self._consumer.getmany(timeout_ms=int(wait_seconds * 1000), max_records=self._batch)
        found = await bounded(fetching, START_SECONDS + wait_seconds)
        # The epoch is read after the fetch, which may wait through a rebalance; read before, it loses records (seen).
        return Batch(self._gate.epoch, found)

    async def handle(self, batch: "Batch", work: Callable[[list[Record]], Awaitable[None]]) -> bool:
        """Run `work` on what this member still owns of the batch, then count it as handled.

        Returns False when a rebalance overtook the batch: what is still owned will be read again from its committed
        offset. What `work` raises is passed on, and the same batch may be handled again.
        """
        async with self._gate.lock:
            mine = {tp: records for tp, records in batch.records.items() if tp in self._gate.owned}
            if batch.epoch != self._gate.epoch:
                if mine:
                    await bounded(self._consumer.seek_to_committed(*mine), COMMIT_SECONDS)
                return False
            await work([_record(r) for records in mine.values() for r in records])
            self._handled |= {tp: records[-1].offset + 1 for tp, records in mine.items()}
            return True

    async def commit_if_due(self) -> None:
        """Commit handled offsets, at most every `COMMIT_EVERY_SECONDS`; what is not committed is only read again."""
        if self._handled and time.monotonic() >= self._commit_at and not self._gate.closed:
            async with self._gate.lock:
                await self._commit()

    async def _commit(self) -> None:
        if not self._handled:
            return
        handled, self._handled = self._handled, {}
        self._commit_at = time.monotonic() + COMMIT_EVERY_SECONDS
        try:
            await bounded(self._consumer.commit(handled), COMMIT_SECONDS)
        except Unavailable as error:
            log.warning("offsets not committed, the records will be read again and recognised", error=str(error))

    async def close(self) -> None:
        """Commit, leave the group and stop, within a few seconds, whatever the broker does."""
        if self._handled and not self._gate.closed:
            async with self._gate.lock:
                await self._commit()
        consumer = self._consumer
        coordinator, fetcher = consumer._coordinator, consumer._fetcher
        names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
        tasks = [getattr(coordinator, name, None) for name in names]
        if fetcher is not None:
            tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
        await hard_stop(consumer, consumer._client, tasks)


class Batch(NamedTuple):
    """What one poll brought, and the generation of the group in which it did."""

    epoch: int
    records: dict[TopicPartition, list[Any]]

    def __bool__(self) -> bool:
        """Say whether there is anything in it."""
        return bool(self.records)


class _Gate(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, commit: Callable[[], Awaitable[None]]) -> None:
        self._commit = commit
        self.lock, self.closed, self.epoch = asyncio.Lock(), False, 0
        self.owned: frozenset[TopicPartition] = frozenset()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        # Also called before the first join, with nothing.
        if not self.closed:
            await self.lock.acquire()
            self.closed = True
            if revoked:
                await self._commit()
        self.epoch += 1
        self.owned = frozenset()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.epoch += 1
        self.owned = frozenset(assigned)
        self.closed = False
        self.lock.release()


def _record(r: Any) -> Record:
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers))
