"""Kafka with identities: each service can write its own topic and read what it subscribes to, and nothing else."""

from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from contracts import access, topics
from contracts.access import ADMIN, READER, READS, USERS, WRITES
from contracts.catalogue import TOPICS
from local import ports
from local.kafka import Kafka
from local.process import Server
from local.stack import HOME
from shared.delivery.kafka import Brokers, Publisher, TopicUnusable, Unavailable
from shared.delivery.outbox import DEAD_LETTER_SUFFIX

pytestmark = pytest.mark.asyncio(loop_scope="module")

LETTERS = [topic + DEAD_LETTER_SUFFIX for topic in TOPICS]
ALL = [*TOPICS, *LETTERS]
FORGED = [(b"burger", b'{"price_cents": 1}', [("ce_type", b"ProductChanged")])]


class Guarded:
    """A broker that asks for passwords."""

    def __init__(self, root: Path) -> None:
        self.passwords = {user: token_urlsafe(32) for user in (ADMIN, *USERS)}
        port = ports.free_block(2)
        engine = Kafka(root / "kafka", port, cache=HOME / "cache", passwords=lambda: self.passwords)
        self.root, self.address, self.server = root, f"{ports.LOOPBACK}:{port}", Server(engine, root)

    def as_(self, user: str, **changes: str) -> Brokers:
        login = {"username": user, "password": self.passwords[user]} | changes
        return Brokers(self.address, "SASL_PLAINTEXT", **login)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    made.server.start()
    yield made
    made.server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kafka(started: Guarded) -> AsyncIterator[Guarded]:
    login = started.as_(ADMIN)
    wanted = topics.Settings(
        kafka_bootstrap_servers=login.servers,
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_username=login.username,
        kafka_password=login.password,
        topic_partitions=1,
        kafka_acls=True,
    )
    assert len(await topics.main(wanted)) == len(TOPICS) + len(LETTERS)
    assert await topics.main(wanted) == []  # again, over what exists
    yield started


async def write(brokers: Brokers, topic: str) -> bool:
    """Try to write an event as a relay does. Returns whether Kafka accepted it."""
    publisher = Publisher(brokers)
    try:
        await publisher.start()
        await publisher.partitions_of(topic)
        await publisher.send({(topic, 0): FORGED}, 10.0)
    except TopicUnusable:
        return False
    finally:
        await publisher.close()
    return True


async def ask(brokers: Brokers, request: FetchRequest | ProduceRequest) -> Any:
    """Send one request to the broker, whatever a client of its own would think of it."""
    client = AIOKafkaClient(**brokers.options())
    await client.bootstrap()
    try:
        return await client.send(next(iter(client.cluster.brokers())).nodeId, request)
    finally:
        await client.close()


async def may_write(brokers: Brokers) -> set[str]:
    """The topics to which Kafka lets this user write."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    batch.append(0, None, b"burger", b"{}", [])
    value = bytes(batch.build())
    answer = await ask(brokers, ProduceRequest(None, -1, 5000, [(topic, [(0, value)]) for topic in ALL]))
    return allowed((topic, partitions[0][1]) for topic, partitions in answer.topics)


async def may_read(brokers: Brokers) -> set[str]:
    """The topics that Kafka lets this user read."""
    request = FetchRequest(100, 0, 1_000_000, 0, [(topic, [(0, 0, 1000)]) for topic in ALL])
    answer = await ask(brokers, request)
    return allowed((topic, partitions[0][1]) for topic, partitions in answer.topics)


def allowed(codes: Iterable[tuple[str, int]]) -> set[str]:
    found = dict(codes)
    assert found.keys() == set(ALL)
    assert set(found.values()) <= {0, TopicAuthorizationFailedError.errno}, found
    return {topic for topic, code in found.items() if code == 0}


@pytest.mark.parametrize("user", USERS)
async def test_a_user_writes_only_its_own_topic_and_the_letters_of_what_it_reads(kafka: Guarded, user: str) -> None:
    own = {WRITES[user]} if user in WRITES else set()
    assert await may_write(kafka.as_(user)) == own | {topic + DEAD_LETTER_SUFFIX for topic in READS.get(user, ())}


@pytest.mark.parametrize("user", USERS)
async def test_a_user_reads_only_what_it_subscribes_to(kafka: Guarded, user: str) -> None:
    assert await may_read(kafka.as_(user)) == set(ALL if user == READER else READS.get(user, ()))


async def test_a_relay_publishes_to_its_own_topic_and_is_told_that_another_is_unusable(kafka: Guarded) -> None:
    assert await write(kafka.as_("orders"), WRITES["orders"])
    assert not await write(kafka.as_("orders"), WRITES["products"])


async def test_a_user_cannot_join_or_move_the_group_of_another(kafka: Guarded) -> None:
    (topic, _) = READS["inventory"]
    for group in ("inventory", "orders", "console-consumer-1"):
        async with AIOKafkaConsumer(**kafka.as_("payments").options(), group_id=group) as consumer:
            partition = TopicPartition(topic, 0)
            consumer.assign([partition])
            with pytest.raises(GroupAuthorizationFailedError):
                await consumer.commit({partition: 0})


async def test_only_the_super_user_creates_topics_and_rules(kafka: Guarded) -> None:
    admin = AIOKafkaAdminClient(**kafka.as_("orders").options())
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic("own.events", 1, 1)])
        assert [code for _, code, _ in answer.topic_errors] == [29]  # TOPIC_AUTHORIZATION_FAILED
    finally:
        await admin.close()
    with pytest.raises(Unavailable, match="not allowed"):
        await topics.kafka.allow(kafka.as_("orders"), access.rules())


@pytest.mark.parametrize("changes", [{"password": "orders"}, {"username": "products"}, {"username": "nobody"}])
async def test_a_wrong_password_is_refused(kafka: Guarded, changes: dict[str, str]) -> None:
    publisher = Publisher(kafka.as_("orders", **changes))
    with pytest.raises(Unavailable):
        await publisher.start()
    await publisher.close()


async def test_a_client_without_a_password_is_refused_by_the_broker_and_by_its_controller(kafka: Guarded) -> None:
    host, port = kafka.address.split(":")
    for address in (kafka.address, f"{host}:{int(port) + 1}"):
        producer = AIOKafkaProducer(bootstrap_servers=address, request_timeout_ms=2000)
        with pytest.raises(Exception, match="Unable to bootstrap"):
            await producer.start()
        await producer.stop()


async def test_passwords_are_different_and_only_their_owner_can_read_them(started: Guarded) -> None:
    assert len(set(started.passwords.values())) == len(started.passwords) == len(USERS) + 1
    assert (started.root / "kafka" / "server.properties").stat().st_mode & 0o777 == 0o600
    log = started.server.log.read_text()
    assert not [secret for secret in started.passwords.values() if secret in log]
