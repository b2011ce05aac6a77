"""Creating topics. The brokers must not create any by themselves (`auto.create.topics.enable=false`)."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError

from ...process.backoff import Backoff
from .administration import administering
from .brokers import Brokers
from .clients import START_SECONDS, Unavailable, bounded

_TOPIC_EXISTS = 36
_OFFSETS = "__consumer_offsets"
_SET_FOR_THE_TOPIC = 1


async def create_topics(
    brokers: Brokers | str, topics: Mapping[str, dict[str, str]], partitions: int, replication: int
) -> list[str]:
    """Create the missing topics, each with its configuration. Returns their names. Raises `Unavailable`."""
    async with administering(brokers) as admin:
        wanted = [NewTopic(name, partitions, replication, topic_configs=config) for name, config in topics.items()]
        answer = await bounded(admin.create_topics(wanted), START_SECONDS)
    errors = {name: (code, text) for name, code, text in answer.topic_errors}  # aiokafka does not raise them
    failed = {name: text for name, (code, text) in errors.items() if code not in (0, _TOPIC_EXISTS)}
    if failed:
        raise Unavailable(f"topics not created: {failed}")
    return [name for name, (code, _) in errors.items() if code == 0]


async def configure_topics(
    brokers: Brokers | str, topics: Mapping[str, Mapping[str, str]], *, only_missing: bool = False
) -> list[str]:
    """Set these entries of existing topics, where they differ. Other entries stay. Returns the names of the changed.

    With `only_missing`, an entry that somebody has set for the topic stays too.
    Kafka replaces the whole configuration of a topic, so the entries that were set before are sent again. Raises
    `Unavailable`.
    """
    async with administering(brokers) as admin:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
        [answer] = await bounded(admin.describe_configs(resources), START_SECONDS)
        changed = []
        for _, _, _, name, entries in answer.resources:
            now = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_FOR_THE_TOPIC}
            wanted = dict(topics[name]) | (now if only_missing else {})
            if not wanted.items() <= now.items():
                changed.append(ConfigResource(ConfigResourceType.TOPIC, name, configs=now | wanted))
        if changed:
            [done] = await bounded(admin.alter_configs(changed), START_SECONDS)
            failed = {name: text for code, text, _, name in done.resources if code}
            if failed:
                raise Unavailable(f"topics not configured: {failed}")
    return [resource.name for resource in changed]


async def add_partitions(brokers: Brokers | str, topics: Iterable[str], partitions: int) -> list[str]:
    """Give each topic so many partitions, where it has fewer. Returns the names of the changed. Raises `Unavailable`.

    A key then belongs to another partition. So nothing may be sent meanwhile, and all that was sent must be handled.
    """
    async with administering(brokers) as admin:
        described = await bounded(admin.describe_topics(list(topics)), START_SECONDS)
        changed = [one["topic"] for one in described if len(one["partitions"]) < partitions]
        wanted = {topic: NewPartitions(partitions) for topic in changed}
        if wanted:
            answer = await bounded(admin.create_partitions(wanted), START_SECONDS)
            failed = {name: text for name, code, text in answer.topic_errors if code}
            if failed:
                raise Unavailable(f"partitions not added: {failed}")
            await bounded(_wait_for(admin, changed, partitions), START_SECONDS)
    return changed


async def _wait_for(admin: AIOKafkaAdminClient, topics: list[str], partitions: int) -> None:
    """Wait until every partition has a leader."""
    while True:
        described = await admin.describe_topics(topics)
        if all(len(one["partitions"]) == partitions and _leads(one) for one in described):
            return
        await asyncio.sleep(0.1)


def _leads(topic: dict[str, Any]) -> bool:
    return not any(part["error_code"] for part in topic["partitions"])


async def create_offsets(brokers: Brokers | str) -> None:
    """Make Kafka create its own topic of offsets, and wait for it. Raises `Unavailable` if Kafka does not answer.

    Kafka does it when a group asks for its coordinator for the first time. Until then it refuses all groups, and their
    members log errors. If Kafka takes too long, the members wait.
    """
    async with administering(brokers) as admin:
        with suppress(Unavailable):
            await bounded(_wait_for_offsets(admin), START_SECONDS)


async def _wait_for_offsets(admin: AIOKafkaAdminClient) -> None:
    """Ask for a coordinator once. Then wait until the topic exists.

    Kafka creates the topic after the first request. Until it is there, Kafka logs a warning for each further request.
    """
    if await _has_offsets(admin):
        return
    with suppress(GroupCoordinatorNotAvailableError):
        await admin.find_coordinator("any")
    backoff = Backoff()
    while not await _has_offsets(admin):  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(backoff.next())


async def _has_offsets(admin: AIOKafkaAdminClient) -> bool:
    [topic] = await admin.describe_topics([_OFFSETS])
    return not any(part["error_code"] for part in (topic, *topic["partitions"]))
