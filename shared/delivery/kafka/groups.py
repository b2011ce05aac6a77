"""Who reads what: a look at a consumer group from outside."""

from collections.abc import Collection

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from .clients import START_SECONDS, bounded


async def count_unread(bootstrap_servers: str, group: str, topics: Collection[str]) -> int:
    """The number of partitions of the topics that no member of the group owns. Raises `Unavailable`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=5_000)
    try:
        await bounded(admin.start(), START_SECONDS)
        described = await bounded(admin.describe_topics(list(topics)), START_SECONDS)
        groups = await bounded(admin.describe_consumer_groups([group]), START_SECONDS)
    finally:
        await admin.close()
    exist = {(topic["topic"], p["partition"]) for topic in described for p in topic["partitions"]}
    members = [member for answer in groups for found in answer.groups for member in found[5]]
    owned = {
        (topic, partition)
        for _, _, _, _, assignment, *_ in members
        if assignment
        for topic, partition in ConsumerProtocolMemberAssignment.decode(assignment).partitions()
    }
    return len(exist - owned)
