"""`python -m shipping.topics` creates the topics that are missing, and changes none that exists.

With KAFKA_ADMIN_USERNAME, it also writes down what the service may read and write in Kafka.
"""

import asyncio
import sys
from dataclasses import replace

from shared.delivery import kafka
from shared.delivery.kafka import Brokers, Rule
from shared.process import configuration

from .config import Settings
from .contracts import ORDERS, TOPIC

_EVENTS = {"retention.ms": str(7 * 24 * 3600 * 1000)}  # shorter than the 9 days for which the inbox keeps its rows
_DEAD_LETTERS = {"max.message.bytes": "2100000"}  # twice as large as an event, because each contains its record
TOPICS = {ORDERS: _EVENTS, f"{ORDERS}.dlq": _DEAD_LETTERS, TOPIC: _EVENTS, f"{TOPIC}.dlq": _DEAD_LETTERS}


def rules(user: str) -> list[Rule]:
    """The service writes its own topic, reads the orders, and may park what it reads."""
    return [
        Rule(user, "write", "topic", TOPIC),
        Rule(user, "read", "topic", ORDERS),
        Rule(user, "write", "topic", f"{ORDERS}.dlq"),
        Rule(user, "read", "group", "shipping"),
    ]


async def main(wanted: Settings) -> list[str]:
    """Create the topics, and the rules if Kafka knows users. Returns the names of the new topics."""
    brokers = Brokers.of(wanted)
    if wanted.kafka_admin_username:
        password = wanted.kafka_admin_password.get_secret_value()
        brokers = replace(brokers, username=wanted.kafka_admin_username, password=password)
    made = await kafka.create_topics(brokers, TOPICS, wanted.topic_partitions, wanted.topic_replication)
    if wanted.kafka_admin_username:
        await kafka.allow(brokers, rules(wanted.kafka_username))
    return made


if __name__ == "__main__":
    settings = configuration.read(Settings, "shipping.topics", sys.argv[1:])
    try:
        created = asyncio.run(main(settings))
    except kafka.Unavailable as error:
        servers = settings.kafka_bootstrap_servers
        sys.exit(f"Kafka at {servers} created no topics: {error}. Start it, or set KAFKA_BOOTSTRAP_SERVERS")
    print(f"created {', '.join(created)}" if created else "all topics exist")
