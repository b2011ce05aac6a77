"""Publishing whole batches: `send_batch` costs 1.5 to 2 us a record, `send` 14 us."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from ..events import Headers
from .brokers import Brokers, options
from .clients import START_SECONDS, Interrupted, Partition, Rejected, TopicUnusable, Unavailable, bounded, hard_stop

_OF_THE_RECORD = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidMessageError,
    kafka_errors.PolicyViolationError,
)
_INVALID_RECORD = 87  # aiokafka has no class for it
_OF_THE_TOPIC = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.TopicAuthorizationFailedError)


Message = tuple[bytes, bytes, Headers]
"""Key, value and headers of one record."""


class Publisher:
    """An idempotent producer that sends whole batches. After any failure, close it and create another.

    The reason: after one refused batch, its partition fails as long as the producer lives (`OutOfOrderSequenceNumber`).
    """

    def __init__(self, brokers: Brokers | str) -> None:
        self._producer = AIOKafkaProducer(
            **options(brokers),
            enable_idempotence=True,
            acks="all",
            compression_type="zstd",
            max_batch_size=900_000,
            linger_ms=0,
            request_timeout_ms=5_000,
            metadata_max_age_ms=30_000,
        )
        self._partitions: dict[str, int] = {}
        self._is_stale = False

    async def start(self) -> None:
        """Connect. Raises `Unavailable`."""
        await bounded(self._producer.start(), START_SECONDS)

    async def partitions_of(self, topic: str) -> int:
        """The number of the topic's partitions. Raises `Unavailable` or `TopicUnusable`.

        aiokafka's own `partitions_for` asks for a missing topic again and again, for five seconds.
        """
        if topic not in self._partitions:
            client = self._producer.client
            if self._is_stale or client.cluster.partitions_for_topic(topic) is None:
                self._is_stale = False
                client.add_topic(topic)
                if not await bounded(client.force_metadata_update(), START_SECONDS):
                    raise Unavailable("no broker answers")
            found = client.cluster.partitions_for_topic(topic)
            if found is None:
                is_forbidden = topic in client.cluster.unauthorized_topics
                raise TopicUnusable(topic, "not allowed" if is_forbidden else "does not exist")
            self._partitions[topic] = len(found)
        return self._partitions[topic]

    def forget_partitions(self) -> None:
        """Ask the brokers again how many partitions each topic has: there may be more."""
        self._partitions.clear()
        self._is_stale = True

    async def send(self, batches: Mapping[Partition, Sequence[Message]], deadline_seconds: float) -> None:
        """Publish all messages, in order within each partition. Returns when the brokers have acknowledged all.

        At most one batch per partition is unacknowledged at a time. Raises `Interrupted`, `Rejected` or
        `TopicUnusable`.
        """
        acknowledged = dict.fromkeys(batches, 0)
        try:
            await self._send(batches, time.monotonic() + deadline_seconds, acknowledged)
        except Unavailable as error:
            raise Interrupted(str(error), acknowledged) from error

    async def _send(
        self, batches: Mapping[Partition, Sequence[Message]], until: float, acknowledged: dict[Partition, int]
    ) -> None:
        left = dict(batches)
        while left:
            sent: dict[Partition, tuple[asyncio.Future[object], int]] = {}
            rest: dict[Partition, Sequence[Message]] = {}
            for partition, messages in left.items():
                batch, taken = self._fill(partition, messages)
                left_over = max(0.0, until - time.monotonic())
                future = await bounded(
                    self._producer.send_batch(batch, partition[0], partition=partition[1]), left_over
                )
                future.add_done_callback(lambda f: f.cancelled() or f.exception())  # mark as retrieved, in any case
                sent[partition] = future, taken
                if taken < len(messages):
                    rest[partition] = messages[taken:]
            await _acknowledged(sent, until - time.monotonic(), acknowledged)
            left = rest

    def _fill(self, partition: Partition, messages: Sequence[Message]) -> tuple[Any, int]:
        batch = self._producer.create_batch()
        taken = 0
        for key, value, headers in messages:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                break
            taken += 1
        if not taken:
            raise Rejected(partition, "larger than a batch may be")
        batch.close()  # or send_batch waits for linger_ms
        return batch, taken

    async def close(self) -> None:
        """Stop within seconds, whatever the broker does. Unacknowledged records may or may not be in the log."""
        producer = self._producer
        await hard_stop(
            producer,
            producer.client,
            [producer._sender.sender_task],
            lambda: producer._message_accumulator.fail_all(ConnectionError("producer closed")),
        )


async def _acknowledged(
    sent: Mapping[Partition, tuple["asyncio.Future[object]", int]], limit: float, acknowledged: dict[Partition, int]
) -> None:
    """Wait for all batches, and count their messages in `acknowledged`. Raises the worst of their errors."""
    _, pending = await asyncio.wait([future for future, _ in sent.values()], timeout=max(0.0, limit))
    errors = {}
    for partition, (future, count) in sent.items():
        if future.done():
            errors[partition] = ConnectionError("cancelled") if future.cancelled() else future.exception()
            if errors[partition] is None:
                acknowledged[partition] += count
    if pending:
        raise Unavailable(f"{len(pending)} of {len(sent)} batches were not acknowledged in time")
    for partition, error in errors.items():
        if isinstance(error, _OF_THE_RECORD) or getattr(error, "errno", None) == _INVALID_RECORD:
            raise Rejected(partition, repr(error))
        if isinstance(error, _OF_THE_TOPIC):
            raise TopicUnusable(partition[0], repr(error))
    for error in errors.values():
        if error is not None:
            raise Unavailable(repr(error)) from error
