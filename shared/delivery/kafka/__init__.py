"""Kafka: topics, publishing batches, reading as a member of a group. No other package imports aiokafka."""

from .clients import Interrupted, Partition, Rejected, TopicUnusable, Unavailable
from .publisher import Message, Publisher
from .subscription import Batch, Subscription
from .topics import configure_topics, create_offsets, create_topics

__all__ = [
    "Batch",
    "Interrupted",
    "Message",
    "Partition",
    "Publisher",
    "Rejected",
    "Subscription",
    "TopicUnusable",
    "Unavailable",
    "configure_topics",
    "create_offsets",
    "create_topics",
]
