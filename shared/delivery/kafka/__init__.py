"""Kafka: topics, publishing batches, reading as a member of a group. No other package imports aiokafka."""

from .access import Rule, allow
from .brokers import Brokers
from .clients import Interrupted, Partition, Rejected, TopicUnusable, Unavailable
from .publisher import Message, Publisher
from .subscription import Batch, Subscription
from .topics import configure_topics, create_topics

__all__ = [
    "Batch",
    "Brokers",
    "Interrupted",
    "Message",
    "Partition",
    "Publisher",
    "Rejected",
    "Rule",
    "Subscription",
    "TopicUnusable",
    "Unavailable",
    "allow",
    "configure_topics",
    "create_topics",
]
