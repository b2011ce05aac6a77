"""Who may write and read which topic. A service writes its own topic, and reads those that it subscribes to.

python -m contracts.access /secrets    # writes what a broker in Docker knows about its users, from their passwords
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from contracts import inventory, orders, payments, products, users
from contracts.catalogue import TOPICS
from shared.delivery.kafka import Rule
from shared.delivery.outbox import DEAD_LETTER_SUFFIX
from shared.process.secret import replace

WRITES = {
    "orders": orders.TOPIC,
    "inventory": inventory.TOPIC,
    "payments": payments.TOPIC,
    "products": products.TOPIC,
    "auth": users.AUTH_TOPIC,
    "users": users.USERS_TOPIC,
}
READS = {
    "orders": (inventory.TOPIC, payments.TOPIC, products.TOPIC, users.USERS_TOPIC),
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


def login(user: str, password: str, known: Mapping[str, str]) -> str:
    """A line of JAAS for Kafka's programs: who logs in, and, for a server, the passwords of all whom it knows."""
    users = "".join(f' user_{name}="{secret}"' for name, secret in known.items())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return f'{module} required username="{user}" password="{password}"{users};'


def of_client(user: str, password: str) -> dict[str, str]:
    """The properties with which Kafka's own tools log in, on this machine."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": login(user, password, {}),
    }


def write(folder: Path) -> None:
    """Write, from the secrets in `folder`, the users for the listeners of a broker, and a file for its tools."""
    passwords = {user: (folder / user / "kafka_password").read_text() for user in (ADMIN, *USERS)}
    known = {"internal": passwords, "host": passwords, "controller": {ADMIN: passwords[ADMIN]}}
    logins = {listener: login(ADMIN, passwords[ADMIN], users) for listener, users in known.items()}
    tools = of_client(READER, passwords[READER]) | {
        "security.protocol": "SASL_SSL",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": "/run/ca/ca.pem",
    }
    made = {
        "jaas.conf": "".join(f"{listener}.KafkaServer {{\n  {one}\n}};\n" for listener, one in logins.items()),
        "reader.properties": "".join(f"{name}={value}\n" for name, value in tools.items()),
    }
    for name, text in made.items():
        replace(folder / "kafka" / name, text.encode(), mode=0o444)  # only the broker's container sees the folder


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(*(f"{user}/kafka_password" for user in (ADMIN, *USERS)))
    else:
        write(Path(sys.argv[1]))
