"""Who reads what: a consumer group seen from outside, and what was written since a time."""

import asyncio
import struct
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from ..events import Record
from . import broken  # noqa: F401 - it repairs aiokafka
from .administration import administering
from .brokers import Brokers, options
from .clients import START_SECONDS, Unavailable, bounded, fetch, record_of, stop_consumer

_READ_SECONDS, _READ_RECORDS = 1.0, 1000


async def count_unread(brokers: Brokers | str, group: str, topics: Collection[str]) -> int:
    """The number of partitions of the topics that no member of the group owns. Raises `Unavailable`."""
    async with administering(brokers, request_seconds=5.0) as admin:
        described = await bounded(admin.describe_topics(list(topics)), START_SECONDS)
        groups = await bounded(admin.describe_consumer_groups([group]), START_SECONDS)
    exist = {(topic["topic"], p["partition"]) for topic in described for p in topic["partitions"]}
    members = [member for answer in groups for found in answer.groups for member in found[5]]
    try:
        assigned = [ConsumerProtocolMemberAssignment.decode(member[4]).partitions() for member in members if member[4]]
    except (ValueError, struct.error) as error:  # a member that is not ours
        raise Unavailable(f"the assignment of a member cannot be read: {error!r}") from error
    return len(exist - {tuple(one) for partitions in assigned for one in partitions})


async def count_unhandled(
    brokers: Brokers | str, reads: Mapping[str, Collection[str]], topics: Collection[str]
) -> dict[str, int]:
    """By group, the number of records of the topics that it has not committed. Raises `Unavailable`.

    `reads` are the groups that must have handled the topics that they name, also if they never began. Every other group
    counts where it has committed an offset.
    """
    async with _reading(brokers, topics) as (consumer, ends):
        firsts: dict[TopicPartition, int] = await bounded(consumer.beginning_offsets(list(ends)), START_SECONDS)
    async with administering(brokers) as admin:
        known = [group for group, *_ in await bounded(admin.list_consumer_groups(), START_SECONDS)]
        left = {}
        for group in {*known, *reads}:
            offsets = await bounded(admin.list_consumer_group_offsets(group), START_SECONDS)
            done = {tp: found.offset for tp, found in offsets.items() if found.offset >= 0}
            due = {tp: firsts[tp] for tp in ends if tp.topic in reads.get(group, ())} | done
            left[group] = sum(ends[tp] - offset for tp, offset in due.items() if tp in ends)
    return left


async def skip(brokers: Brokers | str, group: str, topics: Collection[str]) -> int:
    """Commit the present ends of the topics for a group that has no member. Returns how many records are skipped.

    Raises `Unavailable`, also while the group has a member: Kafka waits some seconds for one that was stopped.
    """
    async with _reading(brokers, topics, group) as (consumer, ends):
        firsts = await bounded(consumer.beginning_offsets(list(ends)), START_SECONDS)
        before = {part: await bounded(consumer.committed(part), START_SECONDS) for part in ends}
        await bounded(consumer.commit(ends), START_SECONDS)
    return sum(end - max(before[part] or 0, firsts[part]) for part, end in ends.items())


async def read_since(brokers: Brokers | str, topics: Collection[str], since: datetime) -> AsyncIterator[list[Record]]:
    """Yield the records that Kafka got between `since` and now, without a group. Raises `Unavailable`."""
    async with _reading(brokers, topics) as (consumer, ends):
        times = dict.fromkeys(ends, int(since.timestamp() * 1000))
        for part, found in (await bounded(consumer.offsets_for_times(times), START_SECONDS)).items():
            consumer.seek(part, found.offset if found else ends[part])
        while any([await bounded(consumer.position(part), START_SECONDS) < end for part, end in ends.items()]):
            found = await fetch(consumer, _READ_SECONDS, _READ_RECORDS)
            yield [record_of(one) for part, some in found.items() for one in some if one.offset < ends[part]]


@asynccontextmanager
async def _reading(
    brokers: Brokers | str, topics: Collection[str], group: str | None = None
) -> AsyncIterator[tuple[AIOKafkaConsumer, dict[TopicPartition, int]]]:
    """Yield a consumer of all partitions of the topics, and the end of each. It is no member of the group."""
    consumer = AIOKafkaConsumer(**options(brokers), group_id=group, enable_auto_commit=False)
    try:
        await bounded(consumer.start(), START_SECONDS)
        parts = await bounded(_partitions(consumer, topics), START_SECONDS)
        consumer.assign(parts)
        yield consumer, await bounded(consumer.end_offsets(parts), START_SECONDS)
    finally:
        await stop_consumer(consumer)


async def _partitions(consumer: AIOKafkaConsumer, topics: Collection[str]) -> list[TopicPartition]:
    found = []
    for topic in topics:
        await consumer._client.add_topic(topic)
        while not (numbers := consumer.partitions_for_topic(topic)):  # noqa: ASYNC110 - `bounded` ends it
            await asyncio.sleep(0.05)
        found += [TopicPartition(topic, number) for number in sorted(numbers)]
    return found
