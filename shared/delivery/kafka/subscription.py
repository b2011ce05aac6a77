"""Reading as a member of a consumer group, without ever handling what another member owns by now."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from shared.delivery.events import Record
from shared.delivery.kafka.clients import START_SECONDS, Partition, Unavailable, bounded, hard_stop

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
        self._handled: Offsets = {}
        self._gate = _Gate(self._commit, self._forget)
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
        if self._consumer._fetcher._fetch_task.done():  # it would look as if nothing came, for ever
            raise Unavailable("the fetcher has ended")
        fetching = self._consumer.getmany(timeout_ms=int(wait_seconds * 1000), max_records=self._batch)
        found = await bounded(fetching, START_SECONDS + wait_seconds)
        # The epoch is read after the fetch, which may wait through a rebalance; read before, it loses records (seen).
        return Batch(self._gate.epoch, found)

    async def handle(self, batch: "Batch", work: Callable[[list[Record]], Awaitable[None]]) -> bool:
        """Run `work` on what this member still owns of the batch, then count it as handled.

        Returns False when a rebalance overtook the batch: a new assignment starts at the committed offsets, so what is
        still owned is read again. What `work` raises is passed on, and the same batch may be handled again.
        """
        if self._gate.closed:  # to wait for it here would be for ever: after a while only a poll lets a rebalance end
            return False
        async with self._gate.lock:
            if batch.epoch != self._gate.epoch:
                return False
            mine = {tp: records for tp, records in batch.records.items() if tp in self._gate.owned}
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
            self._handled = handled | self._handled
            log.warning("offsets not committed, trying again; until then records may be read again", error=str(error))

    def _forget(self) -> None:
        self._handled = {}

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
    def __init__(self, commit: Callable[[], Awaitable[None]], forget: Callable[[], None]) -> None:
        self._commit, self._forget = commit, forget
        self.lock, self.closed, self.epoch = asyncio.Lock(), False, 0
        self.owned: frozenset[TopicPartition] = frozenset()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        # Also called before the first join, with nothing.
        if not self.closed:
            self.closed = True  # before waiting, so that nobody queues behind
            await self.lock.acquire()
            if revoked:
                await self._commit()
        self.epoch += 1
        self.owned = frozenset()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.epoch += 1
        self.owned = frozenset(assigned)
        self._forget()  # offsets of another generation; whose commit failed is read again
        self.closed = False
        self.lock.release()


def _record(r: Any) -> Record:
    return Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, list(r.headers))
