"""`python -m contracts.topics` creates missing topics and dead letter topics, and makes topics of states compacted.

An existing topic without a bound in time gets one. Nothing else of it is changed. With KAFKA_ACLS=true it also writes
down who may read and write which.
"""

import asyncio
from typing import Annotated

from pydantic import Field

from contracts import access
from contracts.catalogue import TOPICS
from contracts.products import TOPIC as PRODUCTS
from shared.delivery import kafka, outbox
from shared.delivery.kafka import Brokers
from shared.process import configuration
from shared.process.configuration import KafkaSettings

STATES = (PRODUCTS,)
"""Topics whose events have the whole state of their key. Kafka keeps the last one of each key, for new replicas."""
COMPACTED = {"cleanup.policy": "compact"}
_DAY_MS = 24 * 3600 * 1000
KEPT = {"retention.ms": str(7 * _DAY_MS), "segment.ms": str(_DAY_MS)}
"""Kafka deletes only whole segments. With a segment a day, the oldest record is 8 days old, and inboxes keep 9 days."""


class Settings(KafkaSettings):
    """Kafka, and the partitions and replicas of a new topic."""

    kafka_acls: bool = False
    """True: write the rules of `contracts/access.py` to Kafka. This user must be a super user there."""
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 12
    """The number of partitions of a new topic."""
    topic_replication: Annotated[int, Field(ge=1, le=10)] = 1
    """The number of brokers that keep a copy of a new topic."""


def configurations(replication: int = 1) -> dict[str, dict[str, str]]:
    """The configuration of every topic. A dead letter may be twice as large, because it contains its record.

    With three copies, two must have a record before it counts as written: then one broker may be lost.
    """
    events = dict.fromkeys(TOPICS, KEPT) | dict.fromkeys(STATES, COMPACTED)
    letters = {topic + outbox.DEAD_LETTER_SUFFIX: {"max.message.bytes": "2100000", **KEPT} for topic in TOPICS}
    copies = {"min.insync.replicas": "2"} if replication >= 3 else {}
    return {topic: found | copies for topic, found in (events | letters).items()}


async def create(brokers: Brokers | str, partitions: int, replication: int) -> list[str]:
    """Create the topics that are missing. Returns their names. Raises `kafka.Unavailable`."""
    made = await kafka.create_topics(brokers, configurations(replication), partitions, replication)
    await kafka.configure_topics(brokers, dict.fromkeys(STATES, COMPACTED))
    bounds = {topic: KEPT for topic in configurations() if topic not in STATES}
    await kafka.configure_topics(brokers, bounds, only_missing=True)
    await kafka.create_offsets(brokers)
    return made


async def main(wanted: Settings) -> list[str]:
    """Create the topics, and the rules of access if they are wanted. Returns the names of the new topics."""
    brokers = Brokers.of(wanted)
    made = await create(brokers, wanted.topic_partitions, wanted.topic_replication)
    if wanted.kafka_acls:
        await kafka.allow(brokers, access.rules())
    return made


if __name__ == "__main__":
    created = asyncio.run(main(configuration.load(Settings)))
    print(f"created {', '.join(created)}" if created else "all topics exist")
