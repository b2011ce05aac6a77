"""Kafka: topics, publishing batches, reading as a member of a group. No other package imports aiokafka."""

from .clients import Partition, Rejected, Unavailable
from .publisher import Message, Publisher
from .subscription import Batch, Subscription
from .topics import create_topics

__all__ = ["Batch", "Message", "Partition", "Publisher", "Rejected", "Subscription", "Unavailable", "create_topics"]
