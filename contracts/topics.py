"""`python -m contracts.topics` creates the shop's topics and their dead letter topics; what exists stays as it is."""

import asyncio
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

from contracts.catalogue import TOPICS
from shared.delivery import kafka, outbox

_WEEK_MS = str(7 * 24 * 3600 * 1000)  # less than the inbox remembers


class Settings(BaseSettings):
    """Where Kafka is, and how many partitions a new topic gets."""

    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 12
    topic_replication: Annotated[int, Field(ge=1, le=10)] = 1


def configurations() -> dict[str, dict[str, str]]:
    """Give every topic's configuration; dead letter topics take twice the size, because a letter wraps its record."""
    events = {topic: {"retention.ms": _WEEK_MS} for topic in TOPICS}
    letters = {topic + outbox.DEAD_LETTER_SUFFIX: {"max.message.bytes": "2100000"} for topic in TOPICS}
    return events | letters


async def create(bootstrap_servers: str, partitions: int, replication: int) -> list[str]:
    """Create the topics that are missing; returns their names. Raises `kafka.Unavailable`."""
    return await kafka.create_topics(bootstrap_servers, configurations(), partitions, replication)


if __name__ == "__main__":
    wanted = Settings()
    created = asyncio.run(create(wanted.kafka_bootstrap_servers, wanted.topic_partitions, wanted.topic_replication))
    print(f"created {', '.join(created)}" if created else "all topics exist")
