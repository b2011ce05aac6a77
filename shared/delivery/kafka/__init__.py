"""Kafka: topics, publishing batches, reading in a group or from the end. No other package imports aiokafka."""

from .access import Rule, allow
from .brokers import Brokers
from .clients import Interrupted, Partition, Rejected, TopicUnusable, Unavailable
from .groups import count_unhandled, read_since, skip
from .publisher import Message, Publisher
from .subscription import Batch, Subscription
from .tail import Tail
from .topics import add_partitions, configure_topics, create_offsets, create_topics

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
    "Tail",
    "TopicUnusable",
    "Unavailable",
    "add_partitions",
    "allow",
    "configure_topics",
    "count_unhandled",
    "create_offsets",
    "create_topics",
    "read_since",
    "skip",
]
