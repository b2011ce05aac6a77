"""Kafka, and the only package that knows aiokafka: topics, publishing batches, reading as a member of a group."""

from shared.delivery.kafka.clients import Partition, Rejected, Unavailable
from shared.delivery.kafka.publisher import Message, Publisher
from shared.delivery.kafka.subscription import Batch, Subscription
from shared.delivery.kafka.topics import create_topics

__all__ = ["Batch", "Message", "Partition", "Publisher", "Rejected", "Subscription", "Unavailable", "create_topics"]
