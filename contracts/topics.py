"""`python -m contracts.topics` creates missing topics and dead letter topics, and makes topics of states compacted.

It changes nothing else of an existing topic.
"""

import asyncio
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from contracts.catalogue import TOPICS
from contracts.products import TOPIC as PRODUCTS
from shared.delivery import kafka, outbox

STATES = (PRODUCTS,)
"""Topics whose events have the whole state of their key. Kafka keeps the last one of each key, for new replicas."""
COMPACTED = {"cleanup.policy": "compact"}
_WEEK_MS = str(7 * 24 * 3600 * 1000)  # shorter than the 9 days for which the inbox keeps its rows


class Settings(BaseSettings):
    """The address of Kafka, and the partitions and replicas of a new topic."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    """Addresses of Kafka brokers, separated by commas."""
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 12
    """The number of partitions of a new topic."""
    topic_replication: Annotated[int, Field(ge=1, le=10)] = 1
    """The number of brokers that keep a copy of a new topic."""


def configurations() -> dict[str, dict[str, str]]:
    """The configuration of every topic. A dead letter may be twice as large, because it contains its record."""
    events = {topic: {"retention.ms": _WEEK_MS} for topic in TOPICS} | dict.fromkeys(STATES, COMPACTED)
    letters = {topic + outbox.DEAD_LETTER_SUFFIX: {"max.message.bytes": "2100000"} for topic in TOPICS}
    return events | letters


async def create(bootstrap_servers: str, partitions: int, replication: int) -> list[str]:
    """Create the topics that are missing. Returns their names. Raises `kafka.Unavailable`."""
    made = await kafka.create_topics(bootstrap_servers, configurations(), partitions, replication)
    await kafka.configure_topics(bootstrap_servers, dict.fromkeys(STATES, COMPACTED))
    await kafka.create_offsets(bootstrap_servers)
    return made


if __name__ == "__main__":
    wanted = Settings()
    created = asyncio.run(create(wanted.kafka_bootstrap_servers, wanted.topic_partitions, wanted.topic_replication))
    print(f"created {', '.join(created)}" if created else "all topics exist")
