"""Who may write and read which topic. A service writes its own topic, and reads those that it subscribes to."""

from contracts import inventory, orders, payments, products, users
from contracts.catalogue import TOPICS
from shared.delivery.kafka import Rule
from shared.delivery.outbox import DEAD_LETTER_SUFFIX

WRITES = {
    "orders": orders.TOPIC,
    "inventory": inventory.TOPIC,
    "payments": payments.TOPIC,
    "products": products.TOPIC,
    "auth": users.AUTH_TOPIC,
    "users": users.USERS_TOPIC,
}
READS = {
    "orders": (inventory.TOPIC, payments.TOPIC, products.TOPIC),
    "inventory": (orders.TOPIC, products.TOPIC),
    "payments": (inventory.TOPIC, orders.TOPIC),
    "auth": (users.USERS_TOPIC,),
    "users": (users.AUTH_TOPIC,),
}
READER = "reader"
"""A user who may read all events and write none: for tools, such as Kafka's console consumer."""
ADMIN = "admin"
"""The super user of the brokers. It creates topics and rules."""
USERS = (*WRITES, READER)


def rules() -> list[Rule]:
    """The rules of all users but the super user, who needs none."""
    own = [Rule(user, "write", "topic", topic) for user, topic in WRITES.items()]
    reads = [rule for user, topics in READS.items() for topic in topics for rule in _reads(user, topic)]
    groups = [Rule(user, "read", "group", user) for user in READS]
    everything = [Rule(READER, "read", "topic", name) for topic in TOPICS for name in (topic, _letters(topic))]
    return [*own, *reads, *groups, *everything, Rule(READER, "read", "group", "console-consumer-*")]


def _reads(user: str, topic: str) -> list[Rule]:
    """Who reads a topic may also park its events."""
    return [Rule(user, "read", "topic", topic), Rule(user, "write", "topic", _letters(topic))]


def _letters(topic: str) -> str:
    return topic + DEAD_LETTER_SUFFIX
