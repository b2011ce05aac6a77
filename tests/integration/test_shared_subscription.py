"""Consumer groups on real brokers: no event is lost and no effect is doubled when members join, leave or die."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupLoadInProgressError
from asyncpg import Pool
from prometheus_client import REGISTRY

from contracts.orders import OrderConfirmed
from contracts.topics import KEPT
from shared.delivery import consumer as consumer_module
from shared.delivery import events
from shared.delivery.consumer import Consumer, Handling
from shared.delivery.events import Record
from shared.delivery.kafka import (
    Message,
    Partition,
    Publisher,
    Subscription,
    Unavailable,
    clients,
    configure_topics,
    create_topics,
)
from shared.delivery.kafka import subscription as subscription_module
from shared.postgres import Connection
from tests.builders import eventually, order_confirmed
from tests.conftest import Broker, StartBroker, create_table
from tests.lag import Lag

pytestmark = pytest.mark.slow

PARTITIONS = 6


async def new_topic(address: str) -> str:
    name = f"test-{uuid4().hex[:8]}"
    await create_topics(address, {name: {}}, PARTITIONS, 1)
    return name


class Writer:
    """Publishes events of ascending order ids, each id in the partition of its hash."""

    def __init__(self, address: str, topic: str) -> None:
        self._publisher, self._topic = Publisher(address), topic
        self.written = 0

    async def __aenter__(self) -> "Writer":
        await self._publisher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._publisher.close()

    async def write(self, count: int) -> None:
        batches: dict[Partition, list[Message]] = {}
        for id_ in range(self.written + 1, self.written + count + 1):
            e = events.encode(order_confirmed(id_))
            key, static = e.key.encode(), events.static_headers(e.type, "/test")
            partition = self._topic, e.hash % PARTITIONS
            batches.setdefault(partition, []).append((key, e.value, events.headers(static, key, e.head)))
        await self._publisher.send(batches, 10.0)
        self.written += count


def subscription(address: str, group: str, topic: str) -> Subscription:
    """A member that soon notices when other members join, leave or die."""
    made = Subscription(address, group, [topic], "", 100)
    made._consumer._session_timeout_ms, made._consumer._heartbeat_interval_ms = 1500, 100
    return made


class Members:
    """The consumers of a service on one database, in production separate processes; `seen` counts deliveries."""

    def __init__(self, pool: Pool, address: str, topic: str) -> None:
        self._pool, self._address, self._topic = pool, address, topic
        self._running: dict[Consumer, tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self.seen: Counter[int] = Counter()

    async def join(self) -> Consumer:
        handling = Handling(self._pool, "members", {OrderConfirmed: self._handle})
        handle = handling.handle

        async def counted(records: Any, **settings: Any) -> list[Record]:
            self.seen.update(int(r.key) for r in records)
            return await handle(records, **settings)

        handling.handle = counted  # type: ignore[method-assign]
        consumer = Consumer(lambda: subscription(self._address, "members", self._topic), handling)
        stop = asyncio.Event()
        self._running[consumer] = stop, asyncio.create_task(consumer.run(stop))
        await eventually(lambda: owns_something(consumer))
        return consumer

    async def leave(self, consumer: Consumer) -> None:
        stop, task = self._running.pop(consumer)
        stop.set()
        await task
        await consumer.close()

    async def die(self, consumer: Consumer) -> None:
        """Stop as after SIGKILL: without a commit, and without leaving the group."""
        _, task = self._running.pop(consumer)
        inner = consumer._subscription._consumer  # type: ignore[union-attr]
        inner._coordinator._maybe_leave_group = _nothing
        inner.commit = _nothing
        consumer._subscription._handled = {}  # type: ignore[union-attr]
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.2)
        await consumer.close()

    async def close(self) -> None:
        for consumer in list(self._running):
            await self.leave(consumer)

    async def _handle(self, conn: Connection, given: list[OrderConfirmed]) -> None:
        await conn.execute("insert into effects select unnest($1::bigint[])", [e.order_id for e in given])

    async def effects(self) -> Counter[int]:
        return Counter(row[0] for row in await self._pool.fetch("select order_id from effects"))


async def _nothing(*_: object, **__: object) -> None:
    pass


async def owns_something(consumer: Consumer) -> bool:
    return consumer._subscription is not None and bool(consumer._subscription.owned)


@pytest.fixture
async def make_members(pool: Pool, owner: Pool) -> AsyncIterator[Callable[[str, str], Members]]:
    await create_table(owner, "effects (order_id bigint)")
    made: list[Members] = []

    def make(address: str, topic: str) -> Members:
        made.append(Members(pool, address, topic))
        return made[-1]

    yield make
    for members in made:
        await members.close()


@pytest.fixture
async def broker(start_broker: StartBroker) -> AsyncIterator[Broker]:
    """A broker that tests may kill, stop and start."""
    made = await asyncio.to_thread(start_broker, "subscription-kafka")
    yield made
    with suppress(ProcessLookupError):
        os.kill(made.server.pid, signal.SIGCONT)
    await asyncio.to_thread(made.server.kill)


async def all_have_effects(members: Members, count: int) -> bool:
    return len(await members.effects()) == count


async def test_twenty_rebalances_lose_no_event_and_double_no_effect(
    kafka: str, make_members: Callable[[str, str], Members]
) -> None:
    topic, over = await new_topic(kafka), asyncio.Event()
    members = make_members(kafka, topic)
    stable = await members.join()
    gate = stable._subscription._gate  # type: ignore[union-attr]

    async def flow() -> None:
        while not over.is_set():
            await writer.write(20)
            await asyncio.sleep(0.01)

    async with Writer(kafka, topic) as writer:
        flowing = asyncio.create_task(flow())
        for n in range(1, 100):
            second, third = await asyncio.gather(members.join(), members.join())
            await members.leave(second)
            await (members.die(third) if n % 3 == 0 else members.leave(third))
            if gate.epoch >= 2 * 20:
                break
        over.set()
        await flowing
        await eventually(lambda: all_have_effects(members, writer.written))

    effects = await members.effects()
    assert set(effects) == set(range(1, writer.written + 1))
    assert max(effects.values()) == 1
    assert writer.written > 500
    print(f"rebalances {gate.epoch // 2}, records {writer.written}, deliveries {members.seen.total()}")  # noqa: T201


async def test_no_record_is_read_twice_when_members_leave_properly(
    kafka: str, make_members: Callable[[str, str], Members]
) -> None:
    topic = await new_topic(kafka)
    members = make_members(kafka, topic)
    await members.join()
    async with Writer(kafka, topic) as writer:
        for _ in range(4):
            await writer.write(200)
            other = await members.join()
            await writer.write(200)
            await members.leave(other)
        await eventually(lambda: all_have_effects(members, writer.written))

    assert members.seen.total() == writer.written


async def test_consumers_continue_after_the_broker_was_killed(
    broker: Broker, make_members: Callable[[str, str], Members]
) -> None:
    topic = await new_topic(broker.address)
    members = make_members(broker.address, topic)
    await members.join()
    async with Writer(broker.address, topic) as writer:
        await writer.write(500)
        await eventually(lambda: all_have_effects(members, 500))
    await asyncio.to_thread(broker.server.kill)
    await asyncio.to_thread(broker.server.start)
    async with Writer(broker.address, topic) as later:
        later.written = 500
        await later.write(500)
    await eventually(lambda: all_have_effects(members, 1000), seconds=30)

    assert max((await members.effects()).values()) == 1


async def poll_some(member: Subscription) -> list[Record]:
    """Poll until there are records, handle them, and return them."""
    found: list[Record] = []

    async def keep(records: list[Record]) -> list[Record]:
        found.extend(records)
        return []

    async def came() -> bool:
        await member.handle(await member.poll(0.2), keep)
        return bool(found)

    await eventually(came)
    return found


async def test_after_a_broker_restart_a_member_starts_from_its_committed_offset(broker: Broker) -> None:
    topic = await new_topic(broker.address)
    first = subscription(broker.address, "group", topic)
    await first.start()
    async with Writer(broker.address, topic) as writer:
        await writer.write(300)
        read = 0
        while read < 300:
            read += len(await poll_some(first))
    await first.close()
    for _ in range(2):
        await asyncio.to_thread(broker.server.kill)
        await asyncio.to_thread(broker.server.start)
        assert await committed(broker.address, topic) == 300

    member = subscription(broker.address, "group", topic)
    await start_with_retries(member)
    async with Writer(broker.address, topic) as writer:
        await writer.write(1)
    records = await poll_some(member)
    await member.close()
    assert len(records) == 1


async def committed(address: str, topic: str) -> int:
    """The sum of the group's committed offsets, read as early as possible."""
    consumer = AIOKafkaConsumer(bootstrap_servers=address, group_id="group", enable_auto_commit=False)
    await consumer.start()
    partitions = [TopicPartition(topic, n) for n in range(PARTITIONS)]
    consumer.assign(partitions)
    offsets = [await consumer.committed(partition) for partition in partitions]
    await clients.hard_stop(consumer, consumer._client, [])
    return sum(filter(None, offsets))


async def start_with_retries(member: Subscription) -> None:
    await eventually(lambda: started(member))


async def started(member: Subscription) -> bool:
    try:
        await member.start()
    except Unavailable:
        return False
    return True


def loading_coordinator(send: Any) -> Any:
    """A fake of what a coordinator needs to fetch offsets, whose broker answers COORDINATOR_LOAD_IN_PROGRESS."""

    async def answer(_: object, request: object) -> object:
        return SimpleNamespace(error_code=14, topics=[("t", [(0, -1, "", 0)])])

    fake = SimpleNamespace(group_id="g", _client=None, coordinator_dead=lambda: None)
    fake._send_req = (lambda request: answer(fake, request)) if send is None else (lambda request: send(fake, request))
    return fake


async def test_aiokafka_still_reads_a_loading_coordinator_as_no_offset() -> None:
    """If this fails, aiokafka checks the error itself, and `_send_request_checked` can be removed."""
    fake = loading_coordinator(None)

    assert await GroupCoordinator._do_fetch_commit_offsets(fake, [TopicPartition("t", 0)]) == {}


async def test_our_fix_makes_a_loading_coordinator_a_retriable_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = loading_coordinator(clients._send_request_checked)
    monkeypatch.setattr(clients, "_send_request", lambda self, request: loading_coordinator(None)._send_req(request))

    with pytest.raises(GroupLoadInProgressError) as raised:
        await GroupCoordinator._do_fetch_commit_offsets(fake, [TopicPartition("t", 0)])
    assert raised.value.retriable
    assert GroupCoordinator._send_req is clients._send_request_checked


async def test_offsets_are_committed_by_time_and_not_by_batch(kafka: str) -> None:
    topic = await new_topic(kafka)
    member, commits = subscription(kafka, topic, topic), 0
    await member.start()
    commit = member._consumer.commit

    async def counted(offsets: Any) -> None:
        nonlocal commits
        commits += 1
        await commit(offsets)

    member._consumer.commit = counted
    async with Writer(kafka, topic) as writer:
        began = time.monotonic()
        for _ in range(20):
            await writer.write(1)
            await poll_some(member)
            await member.commit_if_due()
        took = time.monotonic() - began
    assert commits <= 1 + took / 0.2

    async def all_committed() -> bool:
        await member.commit_if_due()
        return not member._handled

    await eventually(all_committed)
    committed = [await member._consumer.committed(TopicPartition(topic, n)) for n in range(PARTITIONS)]
    await member.close()
    assert sum(filter(None, committed)) == 20


async def test_a_failed_batch_is_delivered_again_and_is_not_committed(kafka: str) -> None:
    topic = await new_topic(kafka)
    member = subscription(kafka, topic, topic)
    await member.start()
    async with Writer(kafka, topic) as writer:
        await writer.write(1)

    async def fail(_: list[Record]) -> list[Record]:
        raise LookupError

    batch = await eventually(lambda: member.poll(0.5))
    with pytest.raises(LookupError):
        await member.handle(batch, fail)
    await member.commit_if_due()
    await member.close()

    again = subscription(kafka, topic, topic)
    await again.start()
    assert len(await poll_some(again)) == 1
    await again.close()


async def test_a_member_without_a_partition_stays_a_spare_and_rejoins_only_if_a_partition_is_free(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, joins, stop = f"test-{uuid4().hex[:8]}", 0, asyncio.Event()
    await create_topics(kafka, {topic: {}}, 1, 1)

    def subscribe() -> Subscription:
        nonlocal joins
        joins += 1
        return subscription(kafka, topic, topic)

    both = [Consumer(subscribe, Handling(None, "spare", {})) for _ in range(2)]  # type: ignore[arg-type]  # no record

    async def one_owns() -> bool:
        await asyncio.gather(*(one.run_once(stop) for one in both))
        return [await owns_something(one) for one in both].count(True) == 1

    async def is_stable() -> bool:
        owns = await one_owns()
        generations = {one._subscription._consumer._coordinator.generation for one in both if one._subscription}
        return owns and len(generations) == 1

    try:
        await eventually(is_stable)
        monkeypatch.setattr(consumer_module, "_REJOIN_AFTER_SECONDS", 0.0)
        before = joins
        for _ in range(6):
            assert await one_owns()
        assert joins == before
        (owner,) = [one for one in both if await owns_something(one)]
        both.remove(owner)
        await owner.close()
        await eventually(one_owns)
    finally:
        for one in both:
            await one.close()


async def test_records_that_kafka_deleted_meanwhile_are_noticed_and_the_others_are_read(kafka: str) -> None:
    topic = f"test-{uuid4().hex[:8]}"
    await create_topics(kafka, {topic: {}}, 1, 1)
    tp = TopicPartition(topic, 0)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        for n in range(10):
            await producer.send_and_wait(topic, str(n).encode(), partition=0)
        away = subscription(kafka, topic, topic)
        await away.start()
        assert len(await poll_some(away)) > 0
        await away._consumer.commit({tp: 4})
        away._handled.clear()
        await away.close()
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await admin.start()
        await admin.delete_records({tp: RecordsToDelete(before_offset=7)})
        await admin.close()

    missed = REGISTRY.get_sample_value("consumer_missed_records_total") or 0
    back = subscription(kafka, topic, topic)
    await back.start()
    assert [r.offset for r in await poll_some(back)] == [7, 8, 9]
    await back.close()
    assert REGISTRY.get_sample_value("consumer_missed_records_total") == missed + 3


async def test_held_records_come_first_again_and_no_offset_passes_them(kafka: str) -> None:
    topic, calls = await new_topic(kafka), list[list[int]]()
    member = subscription(kafka, topic, topic)
    await member.start()
    bad = {2, 5}

    async def work(records: list[Record]) -> list[Record]:
        calls.append([int(r.key or b"") for r in records])
        return [r for r in records if int(r.key or b"") in bad]

    async def handle_some() -> bool:
        return await member.handle(await member.poll(0.2), work) and len(set().union(*calls)) == member_written

    async with Writer(kafka, topic) as writer:
        for count in (6, 6):
            await writer.write(count)
            member_written = writer.written
            await eventually(handle_some)
    assert member.holds
    assert set(calls[-1][:2]) == bad
    first = {tp: records[0].offset for tp, records in member._held.items()}
    await member._commit()
    committed = {tp: await member._consumer.committed(tp) for tp in first}
    assert committed == first

    bad.clear()
    await member.handle(await member.poll(0.0), work)
    assert not member.holds
    await member._commit()
    total = [await member._consumer.committed(TopicPartition(topic, n)) for n in range(PARTITIONS)]
    await member.close()
    assert sum(filter(None, total)) == 12


async def test_a_partition_that_holds_too_many_records_is_paused_until_they_are_done(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "HELD_RECORDS", 3)
    topic, is_bad = await new_topic(kafka), True
    member, seen = subscription(kafka, topic, topic), set[int]()
    await member.start()

    async def work(records: list[Record]) -> list[Record]:
        seen.update(int(r.key or b"") for r in records)
        return records if is_bad else []

    async def paused(count: int) -> bool:
        await member.handle(await member.poll(0.2), work)
        return len(member._consumer.paused()) == count

    async with Writer(kafka, topic) as writer:
        await writer.write(60)
        await eventually(lambda: paused(PARTITIONS))
        await writer.write(60)
        for _ in range(5):
            await member.handle(await member.poll(0.1), work)
        assert len(seen) <= 60
        is_bad = False
        await eventually(lambda: paused(0))

        async def all_seen() -> bool:
            await member.handle(await member.poll(0.2), work)
            return len(seen) == 120

        await eventually(all_seen)
    await member.close()


async def test_a_batch_of_an_earlier_generation_is_not_handled(kafka: str) -> None:
    topic = await new_topic(kafka)
    member, handled = subscription(kafka, topic, topic), list[Record]()
    await member.start()
    async with Writer(kafka, topic) as writer:
        await writer.write(5)

    async def work(records: list[Record]) -> list[Record]:
        handled.extend(records)
        return []

    batch = await eventually(lambda: member.poll(0.5))
    member._gate.epoch += 1  # a rebalance came between
    assert await member.handle(batch, work) is False
    assert (handled, member._handled) == ([], {})
    await member.close()


async def test_a_rebalance_waits_for_the_batch_that_is_being_handled(kafka: str) -> None:
    """Otherwise the new owner reads from an old offset while the old owner's transaction is still open."""
    topic = await new_topic(kafka)
    first, second = subscription(kafka, topic, topic), subscription(kafka, topic, topic)
    await first.start()
    async with Writer(kafka, topic) as writer:
        await writer.write(50)
    entered, finish = asyncio.Event(), asyncio.Event()

    async def work(_: list[Record]) -> list[Record]:
        entered.set()
        await finish.wait()
        return []

    async def keep_polling() -> None:
        while True:
            await first.poll(0.2)

    batch = await eventually(lambda: first.poll(0.5))
    handling = asyncio.create_task(first.handle(batch, work))
    await entered.wait()
    joining = asyncio.create_task(second.start())

    async def rebalances() -> bool:
        return first._gate.closed

    await eventually(rebalances)
    assert first.owned, "revoked although its batch is being handled"
    assert not second.owned
    finish.set()
    assert await handling is True
    polling = asyncio.create_task(keep_polling())

    async def both_own() -> bool:
        return bool(first.owned and second.owned)

    await eventually(both_own)
    polling.cancel()
    await asyncio.wait([polling])
    await joining
    offsets = [await second._consumer.committed(tp) for tp in batch.records]
    assert sum(filter(None, offsets)) == sum(map(len, batch.records.values()))
    await first.close()
    await second.close()


async def test_a_batch_that_fails_for_longer_than_the_poll_interval_is_handled_in_the_end(
    kafka: str,
) -> None:
    """Postgres is down; meanwhile aiokafka leaves the group, and only a poll lets it join again."""
    topic, handled = await new_topic(kafka), asyncio.Event()
    member = subscription(kafka, topic, topic)

    class Work:
        until = 0.0

        async def handle(self, _: list[Record], **__: Any) -> list[Record]:
            self.until = self.until or time.monotonic() + 4
            if time.monotonic() < self.until:
                raise ConnectionError("Postgres is down")
            handled.set()
            return []

        async def release(self, owned: Collection[tuple[str, int]] = ()) -> None:
            pass

    consumer, stop = Consumer(lambda: member, Work()), asyncio.Event()  # type: ignore[arg-type]  # all that it needs
    async with Writer(kafka, topic) as writer, asyncio.TaskGroup() as group:
        group.create_task(consumer.run(stop))
        await eventually(lambda: _owns(member))
        member._consumer._coordinator._max_poll_interval = 1
        await writer.write(1)
        async with asyncio.timeout(20):
            await handled.wait()
        stop.set()
    await consumer.close()


async def _owns(member: Subscription) -> bool:
    return bool(member.owned)


@pytest.mark.parametrize("is_gone", [False, True], ids=["frozen", "gone"])
async def test_clients_close_within_seconds_if_the_broker_is_frozen_or_gone(
    broker: Broker, lag: Lag, is_gone: bool
) -> None:
    topic = await new_topic(broker.address)
    member, writer = subscription(broker.address, "closing", topic), Writer(broker.address, topic)
    await member.start()
    await writer.__aenter__()
    await writer.write(100)
    await poll_some(member)
    if is_gone:
        await asyncio.to_thread(broker.server.kill)
    else:
        await freeze(broker)
    unsent = asyncio.create_task(writer.write(100))
    await asyncio.sleep(0)

    took = await asyncio.gather(timed(lag, member.close()), timed(lag, writer._publisher.close()))

    unsent.cancel()
    await asyncio.wait([unsent], timeout=2)
    assert max(took) < 8
    assert [t for t in asyncio.all_tasks() if "aiokafka" in repr(t.get_coro())] == []


async def freeze(broker: Broker) -> None:
    process = psutil.Process(broker.server.pid)
    process.suspend()

    async def is_frozen() -> bool:
        return process.status() == psutil.STATUS_STOPPED

    await eventually(is_frozen)


async def timed(lag: Lag, work: Any) -> float:
    began = time.monotonic()
    await work
    return lag.elapsed(began)


async def test_a_producer_raises_unavailable_in_time_when_the_broker_is_frozen(broker: Broker, lag: Lag) -> None:
    topic = await new_topic(broker.address)
    async with Writer(broker.address, topic) as writer:
        await writer.write(1)
        await freeze(broker)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await writer._publisher.send({(topic, 0): [(b"k", b"v", [])]}, 1.0)
        assert lag.elapsed(began) < 2


async def test_creating_topics_again_creates_none_and_errors_are_raised(kafka: str) -> None:
    name = f"test-{uuid4().hex[:8]}"
    assert await create_topics(kafka, {name: {}}, 2, 1) == [name]
    assert await create_topics(kafka, {name: {}}, 2, 1) == []
    with pytest.raises(Unavailable):
        await create_topics(kafka, {f"{name}-x": {}}, 2, 3)


async def settings_of(kafka: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


async def test_an_older_topic_gets_a_bound_in_time_but_keeps_the_one_that_an_operator_chose(kafka: str) -> None:
    name = f"test-{uuid4().hex[:8]}"
    await create_topics(kafka, {name: {"retention.ms": "1000"}}, 1, 1)
    assert await configure_topics(kafka, {name: KEPT}, only_missing=True) == [name]
    assert await configure_topics(kafka, {name: KEPT}, only_missing=True) == []
    settings = await settings_of(kafka, name)
    assert (settings["retention.ms"], settings["segment.ms"]) == ("1000", KEPT["segment.ms"])


async def test_a_topic_of_states_becomes_compacted_and_keeps_its_other_settings(kafka: str) -> None:
    name = f"test-{uuid4().hex[:8]}"
    await create_topics(kafka, {name: {"max.message.bytes": "2000000", "retention.ms": "1000"}}, 1, 1)
    compacted = {name: {"cleanup.policy": "compact"}}
    assert await configure_topics(kafka, compacted) == [name]
    assert await configure_topics(kafka, compacted) == []
    settings = await settings_of(kafka, name)
    assert settings["cleanup.policy"] == "compact"
    assert settings["max.message.bytes"] == "2000000"
