"""The relay with a real broker: every row arrives, in the order of its key, even if the relay or Kafka is killed."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiokafka.errors import KafkaError, NotLeaderForPartitionError, RequestTimedOutError
from asyncpg import Pool
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from contracts import topics
from contracts.orders import TOPIC
from shared import postgres, tracing
from shared.delivery import events, kafka, lanes, outbox, relay
from shared.delivery.hint import Hint
from shared.delivery.kafka import publisher
from shared.delivery.relay import Relay
from tests.builders import Tail, eventually, order_confirmed, order_created, tail, versions_by_key
from tests.conftest import PARTITIONS, Database, StartBroker

pytestmark = pytest.mark.slow

MakeRelay = Callable[[str], Relay]

INSERT_RAW = (
    "insert into outbox (lane, hash, event_id, topic, key, type, head, value) values ($1, $2, $3, $4, $5, $6, $7, $8)"
)


@pytest.fixture
async def make_relay(database: Database) -> AsyncIterator[MakeRelay]:
    made: list[Relay] = []

    def make(address: str) -> Relay:
        made.append(Relay(database.url_for("orders"), address, service="orders", owner="test"))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@asynccontextmanager
async def running(one: Relay) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run(stop))
        try:
            yield
        finally:
            stop.set()
            one.wake()


async def append(pool: Pool, *new: tuple[int, int]) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_, version) for id_, version in new])


async def append_unchecked(pool: Pool, event: Any, key: str) -> None:
    """Insert a row without the check of its size."""
    e = events.encode(event)
    await pool.execute(INSERT_RAW, e.hash % 4, e.hash, e.event_id, e.topic, key, e.type, e.head, e.value)


async def drain(one: Relay) -> int:
    """Publish until no row is left."""
    published = 0
    while rows := await one.run_once():
        published += rows
    return published


def has_versions(published: Tail, keys: int, versions: list[int]) -> Callable[[], Any]:
    async def check() -> bool:
        found = versions_by_key(await published())
        return len(found) == keys and all(list(dict.fromkeys(v)) == versions for v in found.values())

    return check


async def test_every_row_is_in_kafka_once_with_its_key_headers_partition_and_order(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    async with tail(shop_topics, TOPIC) as published:
        for version in range(1, 61):
            await append(pool, *[(key, version) for key in range(1, 51)])
        assert await drain(make_relay(shop_topics)) == 3000
        records = await published()

    stored = {str(row["event_id"]): row for row in await pool.fetch("select * from outbox")}
    assert len(records) == len(stored) == 3000
    assert set(map(tuple, versions_by_key(records).values())) == {tuple(range(1, 61))}
    for record in records:
        headers = dict(record.headers)
        row = stored.pop(headers["ce_id"].decode())
        assert (record.key or b"").decode() == row["key"] == headers["ce_subject"].decode()
        assert record.partition == row["hash"] % PARTITIONS
        assert record.value == row["value"]
        assert headers["ce_time"].decode() == events.time_of(row["head"])
        assert {name: headers[name] for name in ("ce_type", "ce_source", "ce_specversion", "content-type")} == {
            "ce_type": b"OrderConfirmed",
            "ce_source": b"/quickbite/orders",
            "ce_specversion": b"1.0",
            "content-type": b"application/json",
        }


async def test_more_rows_than_one_turn_reads_are_published_once_and_in_order(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ROWS_PER_LANE", 7)
    async with tail(shop_topics, TOPIC) as published:
        for version in range(1, 31):
            await append(pool, *[(key, version) for key in range(1, 11)])
        await drain(make_relay(shop_topics))
        found = versions_by_key(await published())

    assert found == {str(key): list(range(1, 31)) for key in range(1, 11)}


async def test_an_event_is_published_with_its_trace(pool: Pool, shop_topics: str, make_relay: MakeRelay) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with tail(shop_topics, TOPIC) as published:
        with tracing.carrying({"1": trace}):
            await append(pool, (1, 1), (2, 1))
        await drain(make_relay(shop_topics))
        found = {record.key: dict(record.headers).get("traceparent") for record in await published()}

    assert found == {b"1": trace.encode(), b"2": None}


async def test_after_a_crash_between_send_and_advance_rows_are_repeated_and_none_is_skipped(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: object) -> None:
        raise ConnectionError

    async with tail(shop_topics, TOPIC) as published:
        dying = make_relay(shop_topics)
        await dying.run_once()
        await append(pool, *[(key, version) for version in (1, 2, 3) for key in range(1, 21)])
        monkeypatch.setattr(dying.lanes, "advance", die)
        dying._advance_at = 0.0
        with pytest.raises(ConnectionError):
            await dying.run_once()
        monkeypatch.undo()
        dying.lanes._moved.clear()  # a crash loses what is only in memory
        await append(pool, *[(key, 4) for key in range(1, 21)])
        await dying.close()
        await drain(make_relay(shop_topics))
        found = versions_by_key(await published())

    assert found == {str(key): [1, 2, 3, 1, 2, 3, 4] for key in range(1, 21)}


async def test_two_relays_publish_everything_in_the_order_of_each_key(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    async with (
        tail(shop_topics, TOPIC) as published,
        running(make_relay(shop_topics)),
        running(make_relay(shop_topics)),
    ):
        for version in range(1, 41):
            await append(pool, *[(key, version) for key in range(1, 21)])
        await eventually(has_versions(published, 20, list(range(1, 41))))


async def test_rows_written_while_kafka_is_down_are_published_after_its_restart(
    pool: Pool, make_relay: MakeRelay, start_broker: StartBroker
) -> None:
    broker = start_broker("relay-kafka")
    await topics.create(broker.address, PARTITIONS, 1)
    async with running(make_relay(broker.address)):
        await append(pool, *[(key, 1) for key in range(1, 11)])
        await eventually(lambda: all_is_published(pool))
        await asyncio.to_thread(broker.server.kill)
        await append(pool, *[(key, 2) for key in range(1, 11)])
        await asyncio.to_thread(broker.server.start)
        await append(pool, *[(key, 3) for key in range(1, 11)])
        await eventually(lambda: all_is_published(pool))

    async with tail(broker.address, TOPIC, from_the_beginning=True) as published:
        assert await has_versions(published, 10, [1, 2, 3])()
    await asyncio.to_thread(broker.server.stop)


async def all_is_published(pool: Pool) -> bool:
    return not await pool.fetchval(
        "select exists (select from outbox o join outbox_lanes l using (lane) where (o.xid, o.id) > (l.xid, l.id))"
    )


async def test_a_row_too_large_for_kafka_stops_its_key_and_not_its_lane(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    too_large = order_created(1, note=os.urandom(1_200_000).hex())
    async with tail(shop_topics, TOPIC) as published:
        await append(pool, *[(key, 1) for key in range(1, 21)])
        await append_unchecked(pool, too_large, "1")
        await append(pool, *[(key, 2) for key in range(1, 21)])
        async with running(make_relay(shop_topics)):
            await eventually(lambda: all_is_published(pool))
            await append(pool, (1, 3), (2, 3))
            await eventually(lambda: all_is_published(pool))
        found = versions_by_key(await published())

    assert {key: list(dict.fromkeys(versions)) for key, versions in found.items()} == {
        "1": [1],
        "2": [1, 2, 3],
        **{str(key): [1, 2] for key in range(3, 21)},
    }
    refused = await pool.fetch("select key, reason from outbox_refused order by xid, id")
    assert [row["key"] for row in refused] == ["1", "1", "1"]
    assert "waits" not in refused[0]["reason"]


async def test_rows_too_large_in_several_partitions_at_once_are_each_refused_with_their_reason(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    async with tail(shop_topics, TOPIC) as published:
        for key in range(1, 5):
            await append_unchecked(pool, order_created(key, note=os.urandom(1_200_000).hex()), str(key))
        await append(pool, *[(key, 2) for key in range(1, 9)])
        async with running(make_relay(shop_topics)):
            await eventually(lambda: all_is_published(pool))
        found = versions_by_key(await published())

    assert {key: set(versions) for key, versions in found.items()} == {str(key): {2} for key in range(5, 9)}
    refused = await pool.fetch("select key, reason from outbox_refused order by id")
    assert [row["key"] for row in refused] == ["1", "2", "3", "4"] * 2
    assert ["waits" in row["reason"] for row in refused] == [False] * 4 + [True] * 4


async def test_a_stopped_key_stays_stopped_for_the_next_relay(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    await pool.execute("insert into outbox_refused values (0, '1', 1, $1, '1', 'too large')", TOPIC)
    async with tail(shop_topics, TOPIC) as published:
        await append(pool, (1, 2), (2, 2))
        await drain(make_relay(shop_topics))
        assert versions_by_key(await published()) == {"2": [2]}


async def test_a_stopped_key_continues_after_its_rows_are_resolved(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    await pool.execute("insert into outbox_refused values (0, '1', 1, $1, '1', 'too large')", TOPIC)
    async with tail(shop_topics, TOPIC) as published:
        one = make_relay(shop_topics)
        await append(pool, (1, 2), (2, 2))
        await drain(one)
        assert versions_by_key(await published()) == {"2": [2]}
        assert REGISTRY.get_sample_value("outbox_stopped_keys") == 1

        await pool.execute("update outbox_refused set resolved_at = now()")
        one._renew_at = 0.0  # the next turn renews the lease, and then looks for stopped keys
        await append(pool, (1, 3))
        await drain(one)
        assert versions_by_key(await published()) == {"2": [2], "1": [3]}
        assert REGISTRY.get_sample_value("outbox_stopped_keys") == 0


async def test_rows_read_ahead_are_not_published_after_their_lane_is_lost(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ROWS_PER_LANE", 5)
    await append(pool, *[(1, version) for version in range(1, 16)])  # three turns of one lane
    one = make_relay(shop_topics)
    async with tail(shop_topics, TOPIC) as published:
        assert await one.run_once() == 5
        assert one._ahead[1], "the second turn's rows are read ahead"
        lost = "update outbox_lanes set owner = 'another', epoch = epoch + 1, lease_until = 'infinity' where lane = $1"
        await pool.execute(lost, one._ahead[1][0]["lane"])  # the relay keeps its other lanes
        one._renew_at = 0.0
        assert await one.run_once() == 0
        assert versions_by_key(await published()) == {"1": [1, 2, 3, 4, 5]}


async def test_kafka_that_fails_while_rows_are_sent_singly_refuses_no_row(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a refused batch are sent one by one. A broker that goes away then is not a refusal."""
    await append_unchecked(pool, order_created(1, note=os.urandom(1_200_000).hex()), "1")
    await append(pool, *[(key, 1) for key in range(2, 10)])
    monkeypatch.setattr(relay, "BYTES_PER_LANE", 10**8)
    one = make_relay(shop_topics)
    with pytest.raises(kafka.Unavailable):
        await one.run_once()  # the batch is refused
    real, sent = kafka.Publisher.send, 0

    async def send(self: kafka.Publisher, batches: Any, seconds: float) -> None:
        nonlocal sent
        sent += 1
        if sent == 3:
            raise kafka.Unavailable("the broker went away")
        await real(self, batches, seconds)

    monkeypatch.setattr(kafka.Publisher, "send", send)
    with pytest.raises(kafka.Unavailable):
        await one.run_once()
    assert await pool.fetchval("select count(*) from outbox_refused") == 0

    monkeypatch.undo()
    async with tail(shop_topics, TOPIC, from_the_beginning=True) as published:
        await drain(one)
        keys = versions_by_key(await published())
    assert {str(key) for key in range(2, 10)} <= keys.keys()
    assert await pool.fetchval("select array_agg(key) from outbox_refused") == ["1"]


@pytest.mark.parametrize("error", [NotLeaderForPartitionError(), RequestTimedOutError(), KafkaError("any other")])
async def test_a_batch_that_fails_for_any_reason_is_not_taken_for_acknowledged(error: Exception) -> None:
    failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    failed.set_exception(error)
    done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    done.set_result(None)
    acknowledged = {("orders.events", 0): 0, ("orders.events", 1): 0}
    sent = {("orders.events", 0): (done, 1), ("orders.events", 1): (failed, 1)}
    with pytest.raises(kafka.Unavailable):
        await publisher._acknowledged(sent, 1.0, acknowledged)
    assert acknowledged == {("orders.events", 0): 1, ("orders.events", 1): 0}


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each turn that was sent."""
    real, found = kafka.Publisher.send, list[int]()

    async def send(self: kafka.Publisher, batches: Any, seconds: float) -> None:
        found.append(sum(len(value) for messages in batches.values() for _, value, _ in messages))
        await real(self, batches, seconds)

    monkeypatch.setattr(kafka.Publisher, "send", send)
    return found


async def append_large(pool: Pool, count: int, size: int) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_created(key, note="x" * size) for key in range(1, count + 1)])


async def test_a_turn_has_a_limit_in_bytes(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, sends: list[int]
) -> None:
    for _ in range(4):
        await append_large(pool, 25, 800_000)
    async with tail(shop_topics, TOPIC) as published:
        await drain(make_relay(shop_topics))
        assert sum(map(len, versions_by_key(await published()).values())) == 100
    assert max(sends) <= 4 * (relay.BYTES_PER_LANE + 800_100)
    assert len(sends) > 100 * 800_000 / max(sends)


async def test_work_that_failed_is_halved_until_it_succeeds(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network so slow that only a few rows arrive within the time of a turn."""
    await append(pool, *[(key, 1) for key in range(1, 401)])
    real, sizes = kafka.Publisher.send, list[int]()

    async def send(self: kafka.Publisher, batches: Any, seconds: float) -> None:
        sizes.append(sum(map(len, batches.values())))
        if sizes[-1] > 20:
            raise kafka.Interrupted("not acknowledged in time", dict.fromkeys(batches, 0))
        await real(self, batches, seconds)

    monkeypatch.setattr(kafka.Publisher, "send", send)
    async with tail(shop_topics, TOPIC) as published, running(make_relay(shop_topics)):
        await eventually(lambda: all_is_published(pool), 60)
        assert len(versions_by_key(await published())) == 400


async def test_rows_that_kafka_acknowledged_before_a_failure_are_not_sent_again(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(pool, *[(key, 1) for key in range(1, 101)])
    real = kafka.Publisher.send

    async def send(self: kafka.Publisher, batches: Any, seconds: float) -> None:
        first, *others = sorted(batches)
        await real(self, {first: batches[first]}, seconds)
        raise kafka.Interrupted("the others are slow", {first: len(batches[first]), **dict.fromkeys(others, 0)})

    one = make_relay(shop_topics)
    monkeypatch.setattr(kafka.Publisher, "send", send)
    async with tail(shop_topics, TOPIC) as published:
        with pytest.raises(kafka.Unavailable):
            await one.run_once()
        monkeypatch.undo()
        await drain(one)
        found = versions_by_key(await published())
    assert found == {str(key): [1] for key in range(1, 101)}, "a row was sent twice"


async def test_a_missing_dead_letter_topic_stops_only_its_own_rows(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    lost = f"lost-{os.urandom(4).hex()}.dlq"

    def letter(key: str) -> events.Encoded:
        return events.envelope(lost, key, "DeadLetter", b"{}")

    async with postgres.transaction(pool) as conn:
        await outbox.append_encoded(conn, [letter("1"), letter("2"), letter("1")])
        await outbox.append(conn, [order_confirmed(key, 1) for key in range(1, 41)])
    one = make_relay(shop_topics)
    async with tail(shop_topics, TOPIC) as published:
        await drain(one)
        assert len(versions_by_key(await published())) == 40
    refused = await pool.fetch("select topic, reason from outbox_refused")
    assert {row["topic"] for row in refused} == {lost}
    assert "does not exist" in refused[0]["reason"]

    await kafka.create_topics(shop_topics, {lost: {}}, 1, 1)
    one._sender._unusable.clear()
    one._retry_at = 0.0
    async with tail(shop_topics, lost, from_the_beginning=True) as letters:
        await drain(one)
        for _ in range(4):
            await one.run_once()
        assert sorted((r.key or b"").decode() for r in await letters()) == ["1", "1", "2"]
    assert await pool.fetchval("select count(*) from outbox_refused where resolved_at is null") == 0


async def test_rows_behind_a_refused_row_do_not_put_off_the_retry(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    one = make_relay(shop_topics)
    await append_unchecked(pool, order_created(1, note=os.urandom(1_200_000).hex()), "1")
    async with running(one):
        await eventually(lambda: all_is_published(pool))
    due = one._retry_at
    for version in range(2, 5):
        await append(pool, (1, version))
        await one.run_once()
    assert await pool.fetchval("select count(*) from outbox_refused") == 4
    assert one._retry_at == due


async def test_a_relay_keeps_its_lanes_while_kafka_writes_for_longer_than_a_lease(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(pool, *[(key, 1) for key in range(1, 41)])
    real = kafka.Publisher.send

    async def slowly(self: kafka.Publisher, batches: Any, seconds: float) -> None:
        await asyncio.sleep(3.5)
        await real(self, batches, seconds)

    busy, other = make_relay(shop_topics), make_relay(shop_topics)
    busy.lanes.lease_seconds = other.lanes.lease_seconds = 1.0
    async with tail(shop_topics, TOPIC) as published:
        with monkeypatch.context() as patch:
            patch.setattr(kafka.Publisher, "send", slowly)
            sending = asyncio.create_task(busy.run_once())
            await eventually(lambda: _holds_lanes(busy))
            while not sending.done():
                other._renew_at = 0.0
                assert await other.run_once() == 0
                await asyncio.sleep(0.2)
        assert await sending == 40
        assert versions_by_key(await published()) == {str(key): [1] for key in range(1, 41)}


async def test_a_relay_of_a_busy_process_gives_way_for_a_time_and_keeps_its_lanes(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "GIVE_WAY_SECONDS", 60.0)
    busy, other = make_relay(shop_topics), make_relay(shop_topics)
    busy.lanes.lease_seconds = other.lanes.lease_seconds = 1.0
    async with running(busy):
        await eventually(lambda: _holds_lanes(busy))
        busy._is_busy = lambda: True
        await asyncio.sleep(0.1)  # the turn that had begun
        await append(pool, *[(key, 1) for key in range(1, 41)])
        busy.wake()
        for _ in range(12):
            await asyncio.sleep(0.2)
            other._renew_at = 0.0
            assert await other.run_once() == 0
            assert not await all_is_published(pool)
        monkeypatch.setattr(relay, "GIVE_WAY_SECONDS", 0.5)
        busy._is_busy = lambda: False
        await eventually(lambda: all_is_published(pool))
        busy._is_busy = lambda: True  # and it stays busy, but not for longer than the time
        await append(pool, *[(key, 2) for key in range(1, 41)])
        busy.wake()
        await eventually(lambda: all_is_published(pool))


async def test_a_busy_relay_with_more_rows_than_a_turn_has_does_not_wait(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "GIVE_WAY_SECONDS", 60.0)
    monkeypatch.setattr(relay, "ROWS_PER_LANE", 5)
    busy = make_relay(shop_topics)
    busy._limit = lanes.Limit(5, relay.BYTES_PER_LANE)
    await append(pool, *[(key, 1) for key in range(1, 201)])
    assert await busy.run_once()  # the first turn, which begins before the process is busy
    busy._is_busy = lambda: True
    async with running(busy):
        await eventually(lambda: all_is_published(pool))
        busy._is_busy = lambda: False


async def _holds_lanes(one: Relay) -> bool:
    return len(one.lanes.held) == one.lanes.total > 0


async def test_metrics_show_the_backlog_while_kafka_is_away_and_its_end(
    pool: Pool, owner: Pool, start_broker: StartBroker, make_relay: MakeRelay
) -> None:
    broker = start_broker("metrics")
    await topics.create(broker.address, PARTITIONS, 1)
    one = make_relay(broker.address)
    await append(pool, (1, 1))
    await drain(one)
    published, failures = value("outbox_published_total"), value("relay_failures_total")
    assert value("relay_lanes_held") == 4
    assert value("outbox_oldest_unpublished_seconds") == 0

    await asyncio.to_thread(broker.server.kill)
    await append(pool, (2, 1), (3, 1))
    await owner.execute(
        "update outbox set head = overlay(head placing '2020-01-01T00:00:00.000000Z' from 37) where key = '2'"
    )
    async with running(one):

        async def backlog_is_shown() -> bool:
            return value("outbox_oldest_unpublished_seconds") > 3600 and value("relay_failures_total") > failures

        await eventually(backlog_is_shown, seconds=30)
        await asyncio.to_thread(broker.server.start)
        await eventually(lambda: all_is_published(pool), seconds=60)

        async def backlog_is_over() -> bool:
            return value("outbox_oldest_unpublished_seconds") == 0 and value("outbox_published_total") == published + 2

        await eventually(backlog_is_over)
        success = value("relay_last_success_timestamp_seconds")
    assert time.time() - 60 < success <= time.time()


def value(metric: str) -> float:
    """The value of a metric without labels."""
    found = REGISTRY.get_sample_value(metric)
    assert found is not None, metric
    return found


async def test_the_largest_event_and_the_largest_dead_letter_are_accepted_by_kafka(
    pool: Pool, shop_topics: str, make_relay: MakeRelay
) -> None:
    letter = b'"' + os.urandom(outbox.MAX_BYTES - 100).hex().encode() + b'"'
    async with tail(shop_topics, TOPIC) as published, tail(shop_topics, "orders.events.dlq") as letters:
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_created(1, note=os.urandom(outbox.MAX_BYTES // 2 - 300).hex())])
            await outbox.append_encoded(conn, [events.envelope("orders.events.dlq", "1", "DeadLetter", letter)])
        async with running(make_relay(shop_topics)):
            await eventually(lambda: all_is_published(pool))
        assert len(await published()) == len(await letters()) == 1
    assert await pool.fetchval("select count(*) from outbox_refused") == 0


async def test_a_notification_wakes_the_relay_of_another_process(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_IDLE_SECONDS", (60.0,))
    one, hint, stop = make_relay(shop_topics), Hint(pool, "orders"), asyncio.Event()
    async with running(one), asyncio.TaskGroup() as group:
        group.create_task(hint.run(stop, lambda: None))
        await eventually(lambda: holds_lanes(one))
        await append(pool, (1, 1))
        hint.wake()
        await eventually(lambda: all_is_published(pool), seconds=5)
        stop.set()
        hint.wake()


async def test_waking_one_relay_wakes_the_relay_that_has_the_lane(
    pool: Pool, shop_topics: str, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_relay(shop_topics), make_relay(shop_topics)
    for one in (first, second, first, second):
        one._renew_at = 0.0
        await one.run_once()
    monkeypatch.setattr(relay, "_IDLE_SECONDS", (60.0,))
    async with running(first), running(second):
        await eventually(lambda: holds_lanes(first))
        await append(pool, *[(key, 1) for key in range(1, 21)])
        first.wake()
        await eventually(lambda: all_is_published(pool), seconds=5)


async def holds_lanes(one: Relay) -> bool:
    return one.lanes.held != {} and one._conn is not None


async def test_the_read_needs_no_sort_on_a_large_outbox_that_was_never_analysed(
    pool: Pool, owner: Pool, database: Database
) -> None:
    days = await pool.fetch("select inhrelid::regclass::text t from pg_inherits where inhparent = 'outbox'::regclass")
    for day in days:
        await owner.execute(f"alter table {day['t']} set (autovacuum_enabled = off)")
    await pool.execute(
        """insert into outbox (lane, hash, event_id, topic, key, type, head, value, occurred_at)
           select n % 4, n, gen_random_uuid(), 'orders.events', n::text, 'T', 'h', 'v', now() + (n % 3) * interval '1 d'
             from generate_series(1, 100000) n"""
    )
    conn = await postgres.connect(database.url_for("orders"), **relay._SETTINGS)
    await conn.execute("prepare read as " + lanes._READ.format(since=await lanes.first_day(conn)))
    plan = await conn.fetch("explain execute read ('{0,1,2,3}', '{0,0,0,0}', '{0,0,0,0}', 2000, 2000000)")
    await conn.close()

    text = "\n".join(row[0] for row in plan)
    assert "Sort  " not in text
    assert "Merge Append" in text
    assert "Seq Scan" not in text


async def test_a_transaction_that_holds_the_outbox_back_is_named_by_a_log_line_and_a_metric(
    pool: Pool, database: Database, make_relay: MakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert relay.HELD_BACK_SECONDS == 5
    monkeypatch.setattr(relay, "HELD_BACK_SECONDS", 0.05)
    watcher = make_relay("127.0.0.1:9")
    foreign = await asyncpg.connect(Database("postgres", database.port).admin_url)  # another database of the cluster
    async with pool.acquire() as conn:
        async with foreign.transaction():
            await foreign.execute("select pg_current_xact_id() as the_culprit")
            await asyncio.sleep(0.1)
            with capture_logs() as logs:
                await watcher._watch(conn)
            assert value("outbox_held_back_seconds") > 0.05
        await watcher._watch(conn)
    assert value("outbox_held_back_seconds") == 0
    [alarm] = [line for line in logs if line["log_level"] == "error"]
    assert (alarm["pid"], alarm["usename"], alarm["datname"]) == (foreign.get_server_pid(), "postgres", "postgres")
    assert alarm["query"] == "(only a superuser may see it)"
    await foreign.close()
