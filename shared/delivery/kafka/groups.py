"""Who reads what: a look at a consumer group from outside."""

import struct
from collections.abc import Collection

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from .administration import administering
from .brokers import Brokers
from .clients import START_SECONDS, Unavailable, bounded


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
