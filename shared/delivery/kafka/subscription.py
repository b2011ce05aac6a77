"""Reading as a member of a consumer group. A member never handles records of partitions that it has lost."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, NoOffsetForPartitionError, OffsetOutOfRangeError

from ... import metrics
from ..events import Record
from . import (
    broken,  # noqa: F401 - it repairs aiokafka
    groups,
)
from .brokers import Brokers, options
from .clients import START_SECONDS, Partition, Unavailable, bounded, fetch, record_of, stop_consumer

log = structlog.get_logger()

Offsets = dict[TopicPartition, int]

COMMIT_SECONDS = 3.0
_LOOK_SECONDS = 0.5
"""How often aiokafka looks whether there is something to fetch, although nothing has told it so. Its default is 0.2."""
COMMIT_EVERY_SECONDS = 0.2
HELD_RECORDS, HELD_BYTES = 1000, 32_000_000
"""A partition with so many held records is paused, so that it is not read further."""


class Subscription:
    """A membership in a consumer group. Because of its gate, handling and a rebalance never overlap.

    The gate is open while partitions are owned. Handling holds its lock. A rebalance closes the gate, waits for the
    lock, and commits the offsets of what was handled. The gate opens when partitions are assigned. `getmany` is called
    without the lock: with the lock it deadlocks.
    """

    def __init__(self, brokers: Brokers | str, group: str, topics: Iterable[str], instance_id: str, batch: int) -> None:
        self._topics, self._batch = list(topics), batch
        self._brokers, self._group = brokers, group
        self._handled: Offsets = {}
        self._noted: Offsets = {}
        self._ends: Offsets = {}
        self._held: dict[TopicPartition, list[Record]] = {}
        self._gate = _Gate(self._commit, self._forget)
        self._commit_at = 0.0
        self._consumer = AIOKafkaConsumer(
            **options(brokers),
            group_id=group,
            group_instance_id=instance_id or None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # see `_reset`
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_500,
            max_poll_interval_ms=60_000,
            metadata_max_age_ms=3_000,  # otherwise a topic that was deleted and created again goes unnoticed
            fetch_max_wait_ms=1_000,
            request_timeout_ms=10_000,
        )

    async def start(self) -> None:
        """Join the group. Raises `Unavailable`."""
        self._consumer.subscribe(self._topics, listener=self._gate)
        await bounded(self._consumer.start(), START_SECONDS)
        self._consumer._fetcher._fetcher_timeout = _LOOK_SECONDS

    @property
    def owned(self) -> frozenset[Partition]:
        """The partitions that this member owns now."""
        return frozenset((tp.topic, tp.partition) for tp in self._gate.owned)

    async def count_unread(self) -> int:
        """The number of partitions that no member of the group owns. Raises `Unavailable`."""
        return await groups.count_unread(self._brokers, self._group, self._topics)

    async def poll(self, wait_seconds: float) -> "Batch":
        """Fetch records. Waits at most `wait_seconds` for the first. Raises `Unavailable`."""
        try:
            found = await fetch(self._consumer, wait_seconds, self._batch)
        except Unavailable as error:
            if not isinstance(error.__cause__, NoOffsetForPartitionError | OffsetOutOfRangeError):
                raise
            await self._reset(error.__cause__)
            found = {}
        # Read the epoch after the fetch: a rebalance can happen during the fetch. An earlier epoch lost records (seen).
        return Batch(self._gate.epoch, found)

    async def _reset(self, error: NoOffsetForPartitionError | OffsetOutOfRangeError) -> None:
        """Start at the first record that exists. Records that were deleted before they were read are an alarm."""
        (found,) = error.args
        wanted = found if isinstance(found, dict) else {found: None}
        firsts = await bounded(self._consumer.beginning_offsets(list(wanted)), START_SECONDS)
        for tp, offset in wanted.items():
            if offset is not None and offset < firsts[tp]:
                metrics.CONSUMER_MISSED.inc(firsts[tp] - offset)
                log.error(
                    "Kafka deleted records before they were read: publish them again, see docs/operations.md",
                    topic=tp.topic,
                    partition=tp.partition,
                    first=offset,
                    next=firsts[tp],
                )
            with suppress(IllegalStateError):  # the partition was taken away meanwhile
                self._consumer.seek(tp, firsts[tp])

    @property
    def holds(self) -> bool:
        """True if some records are held: `work` returned them."""
        return bool(self._held)

    async def handle(self, batch: "Batch", work: Callable[[list[Record]], Awaitable[list[Record]]]) -> bool:
        """Run `work` on the held records and on those of the batch that this member still owns. Note their offsets.

        `work` returns the records that are left, in order. They are held and given to the next call; no offset passes
        the first of them. A partition that holds too many is paused. Returns False if there was a rebalance since the
        fetch. A new assignment starts at the committed offsets, so records that are still owned are read again. An
        exception of `work` passes through; then the same batch may be handled again.
        """
        if self._gate.closed:  # do not wait here: after a minute without a poll, only a poll ends the rebalance
            return False
        async with self._gate.lock:
            if batch.epoch != self._gate.epoch:
                return False
            mine = {tp: records for tp, records in batch.records.items() if tp in self._gate.owned}
            given = [r for records in self._held.values() for r in records]
            given += [record_of(r) for records in mine.values() for r in records]
            self._report(given)
            left = await work(given)
            self._ends |= {tp: records[-1].offset + 1 for tp, records in mine.items()}
            self._hold(left)
            self._note({*mine, *self._noted})
            self._report(left)
            return True

    def _report(self, waiting: Iterable[Record]) -> None:
        """Set the metrics of what is not handled. `waiting` are the records that this process has read."""
        oldest: dict[str, int] = {}
        for record in waiting:
            oldest[record.topic] = min(record.timestamp_ms, oldest.get(record.topic, record.timestamp_ms))
        lag: Counter[str] = Counter()
        for tp in self._gate.owned:
            end, next_ = self._consumer.highwater(tp), self._noted.get(tp)
            lag[tp.topic] += max(0, end - next_) if end is not None and next_ is not None else 0
        for topic in self._topics:
            age = time.time() - oldest[topic] / 1000 if topic in oldest else 0.0
            metrics.CONSUMER_LAG_SECONDS.labels(topic).set(max(0.0, age))
            metrics.CONSUMER_LAG.labels(topic).set(lag[topic])

    def _hold(self, left: Iterable[Record]) -> None:
        before, self._held = self._held, defaultdict(list)
        for record in left:
            self._held[TopicPartition(record.topic, record.partition)].append(record)
        for tp in before.keys() | self._held.keys():
            records = self._held.get(tp, [])
            if len(records) >= HELD_RECORDS or sum(len(r.value or b"") for r in records) >= HELD_BYTES:
                self._consumer.pause(tp)
            elif before.get(tp):
                self._consumer.resume(tp)

    def _note(self, partitions: Iterable[TopicPartition]) -> None:
        for tp in partitions:
            held = self._held.get(tp)
            offset = min(record.offset for record in held) if held else self._ends[tp]
            if self._noted.get(tp) != offset:
                self._noted[tp] = self._handled[tp] = offset

    async def commit_if_due(self) -> None:
        """Commit the noted offsets, at most every `COMMIT_EVERY_SECONDS`. Records without a commit are read again."""
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
            log.warning("offsets not committed, trying again; records may be read again", error=str(error))

    def _forget(self) -> None:
        self._handled, self._noted, self._ends, self._held = {}, {}, {}, {}

    async def close(self) -> None:
        """Commit, leave the group and stop, in a few seconds, whatever the broker does."""
        if self._handled and not self._gate.closed:
            async with self._gate.lock:
                await self._commit()
        await stop_consumer(self._consumer)


class Batch(NamedTuple):
    """The records of one poll, and the epoch of the gate at that time."""

    epoch: int
    records: dict[TopicPartition, list[Any]]

    def __bool__(self) -> bool:
        return bool(self.records)


class _Gate(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, commit: Callable[[], Awaitable[None]], forget: Callable[[], None]) -> None:
        self._commit, self._forget = commit, forget
        self.lock, self.closed, self.epoch = asyncio.Lock(), False, 0
        self.owned: frozenset[TopicPartition] = frozenset()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        # aiokafka also calls this before the first join, without partitions.
        if not self.closed:
            self.closed = True  # set before the wait, so that no new handling waits for the lock
            await self.lock.acquire()
            if revoked:
                await self._commit()
        self.epoch += 1
        self.owned = frozenset()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self.epoch += 1
        self.owned = frozenset(assigned)
        self._forget()  # these offsets belong to another generation; without a commit their records are read again
        self.closed = False
        self.lock.release()
