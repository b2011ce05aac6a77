"""Creating topics. The brokers must not create any by themselves (`auto.create.topics.enable=false`)."""

from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from .clients import START_SECONDS, Unavailable, bounded

_TOPIC_EXISTS = 36


async def create_topics(
    bootstrap_servers: str, topics: Mapping[str, dict[str, str]], partitions: int, replication: int
) -> list[str]:
    """Create the missing topics, each with its configuration. Returns their names. Raises `Unavailable`."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, request_timeout_ms=10_000)
    try:
        await bounded(admin.start(), START_SECONDS)
        wanted = [NewTopic(name, partitions, replication, topic_configs=config) for name, config in topics.items()]
        answer = await bounded(admin.create_topics(wanted), START_SECONDS)
    finally:
        await admin.close()
    errors = {name: (code, text) for name, code, text in answer.topic_errors}  # aiokafka does not raise them
    failed = {name: text for name, (code, text) in errors.items() if code not in (0, _TOPIC_EXISTS)}
    if failed:
        raise Unavailable(f"topics not created: {failed}")
    return [name for name, (code, _) in errors.items() if code == 0]
