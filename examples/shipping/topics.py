"""`python -m shipping.topics` creates the topics that are missing, and changes none that exists."""

import asyncio
import sys

from shared.delivery import kafka
from shared.process import configuration

from .config import Settings
from .contracts import ORDERS, TOPIC

_EVENTS = {"retention.ms": str(7 * 24 * 3600 * 1000)}  # shorter than the 9 days for which the inbox keeps its rows
_DEAD_LETTERS = {"max.message.bytes": "2100000"}  # twice as large as an event, because each contains its record
TOPICS = {ORDERS: _EVENTS, f"{ORDERS}.dlq": _DEAD_LETTERS, TOPIC: _EVENTS, f"{TOPIC}.dlq": _DEAD_LETTERS}

if __name__ == "__main__":
    wanted = configuration.read(Settings, "shipping.topics", sys.argv[1:])
    servers, partitions = wanted.kafka_bootstrap_servers, wanted.topic_partitions
    try:
        created = asyncio.run(kafka.create_topics(servers, TOPICS, partitions, wanted.topic_replication))
    except kafka.Unavailable as error:
        sys.exit(f"Kafka at {servers} created no topics: {error}. Start it, or set KAFKA_BOOTSTRAP_SERVERS")
    print(f"created {', '.join(created)}" if created else "all topics exist")
