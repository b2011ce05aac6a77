"""Kafka with identities: each service can write its own topic and read what it subscribes to, and nothing else."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_urlsafe

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from contracts import access, topics
from contracts.access import ADMIN, READER, READS, USERS, WRITES
from contracts.catalogue import TOPICS
from local import ports
from local.kafka import Kafka
from local.process import Server
from local.stack import HOME
from shared.delivery.kafka import Brokers, Publisher, TopicUnusable, Unavailable
from shared.delivery.outbox import DEAD_LETTER_SUFFIX
from shared.process.configuration import KafkaSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

LETTERS = [topic + DEAD_LETTER_SUFFIX for topic in TOPICS]
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
    """Try to write an event. Returns whether Kafka accepted it."""
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


async def may_read(brokers: Brokers, topic: str) -> bool:
    """Try to read a topic without a group."""
    async with AIOKafkaConsumer(**brokers.options()) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        try:
            await consumer.seek_to_beginning(partition)
            await consumer.getmany(partition, timeout_ms=1000)
        except TopicAuthorizationFailedError:
            return False
    return True


@pytest.mark.parametrize("user", [*WRITES, READER])
async def test_a_user_writes_only_its_own_topic_and_the_letters_of_what_it_reads(kafka: Guarded, user: str) -> None:
    own = {WRITES.get(user), *(topic + DEAD_LETTER_SUFFIX for topic in READS.get(user, ()))}
    brokers = kafka.as_(user)
    allowed = {topic for topic in [*TOPICS, *LETTERS] if await write(brokers, topic)}
    assert allowed == own - {None}


@pytest.mark.parametrize("user", [*WRITES, READER])
async def test_a_user_reads_only_what_it_subscribes_to(kafka: Guarded, user: str) -> None:
    brokers = kafka.as_(user)
    allowed = {topic for topic in [*TOPICS, *LETTERS] if await may_read(brokers, topic)}
    assert allowed == (set(TOPICS) | set(LETTERS) if user == READER else set(READS.get(user, ())))


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
    with pytest.raises(Unavailable, match="uthoriz"):
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


def test_passwords_are_different_and_only_their_owner_can_read_them(started: Guarded) -> None:
    assert len(set(started.passwords.values())) == len(started.passwords) == len(USERS) + 1
    assert (started.root / "kafka" / "server.properties").stat().st_mode & 0o777 == 0o600
    log = started.server.log.read_text()
    assert not [secret for secret in started.passwords.values() if secret in log]


@pytest.mark.parametrize("service", WRITES)
def test_the_rules_name_what_the_service_really_reads(service: str) -> None:
    try:
        consumer = __import__(f"{service}.consumer", fromlist=["TOPICS"])
    except ModuleNotFoundError:
        assert service not in READS
    else:
        assert set(READS[service]) == set(consumer.TOPICS)


def test_a_login_without_a_name_is_a_wrong_setting() -> None:
    with pytest.raises(ValueError, match="KAFKA_SECURITY_PROTOCOL=SASL_SSL needs KAFKA_USERNAME"):
        KafkaSettings(kafka_security_protocol="SASL_SSL")


def test_a_password_is_never_shown() -> None:
    assert "hidden" not in repr(Brokers("k:9092", "SASL_SSL", username="orders", password="hidden"))
