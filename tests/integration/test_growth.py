"""More lanes and more partitions while events flow: each key stays in order, and nothing is lost or doubled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import pytest
from asyncpg import Pool

from contracts import topics
from contracts.orders import TOPIC, OrderCancelled, OrderConfirmed, OrderCreated
from migrations import growth
from shared import postgres
from shared.delivery import events, outbox
from shared.delivery.consumer import Consumer
from shared.delivery.handling import Handling
from shared.delivery.kafka import Subscription
from shared.delivery.relay import Relay
from shared.postgres import Connection
from tests.builders import eventually, order_confirmed, tail
from tests.conftest import Database, OpenPool

KEYS = range(1, 21)
BEFORE, AFTER = 2, 8
_NOTE = "insert into handled (key, version) select * from unnest($1::int[], $2::int[])"
_HANDLED = "select key, array_agg(version order by n) as versions from handled group by key"
REFUSED = "insert into outbox_refused (lane, xid, id, topic, key, reason) values (0, '1', 1, 't', 'k', 'too large')"


class Flow:
    """Two relays publish what a writer appends; a slow consumer notes what it handles, in the same transaction."""

    def __init__(self, database: Database, broker: str, orders: Pool, inventory: Pool) -> None:
        self._orders, self._inventory, self.written, self.slow_until = orders, inventory, 0, 0
        self._relays = [
            Relay(database.url_for("orders"), broker, service="orders", owner=f"relay-{n}", lease_seconds=1.0)
            for n in range(2)
        ]
        ignored = [OrderCreated, OrderCancelled]
        handling = Handling(inventory, "inventory", {OrderConfirmed: self._handle}, ignores=ignored)
        self._consumer = Consumer(lambda: Subscription(broker, "inventory", [TOPIC], "", 60), handling)

    async def _handle(self, conn: Connection, found: list[OrderConfirmed]) -> None:
        await asyncio.sleep(0.15 if found[0].version <= self.slow_until else 0.01)
        await conn.execute(_NOTE, [event.order_id for event in found], [event.version for event in found])

    async def _write(self, stop: asyncio.Event) -> None:
        for version in count(1):
            if stop.is_set():
                return
            async with postgres.transaction(self._orders, [str(key) for key in KEYS]) as conn:
                await outbox.append(conn, [order_confirmed(key, version) for key in KEYS])
            self.written = version
            await asyncio.sleep(0.06)

    async def fall_behind(self) -> None:
        """Return when the consumer has for some seconds to do with what is in Kafka."""
        self.slow_until = self.written + 15
        await eventually(self._is_past, pause=0.1)

    async def _is_past(self) -> bool:
        return self.written > self.slow_until

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Until the end of the block the writer writes; then everything is handled."""
        stop, stop_writing = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for loop in (*self._relays, self._consumer):
                tasks.create_task(loop.run(stop))
            writing = tasks.create_task(self._write(stop_writing))
            try:
                await self.flows()
                yield
                await self.flows()
                stop_writing.set()
                await writing
                await eventually(self._all_is_handled, seconds=60)
            finally:
                stop_writing.set()
                stop.set()
        await asyncio.gather(self._consumer.close(), *(relay.close() for relay in self._relays))

    async def flows(self, more: int = 200) -> None:
        """Wait until so many more events are handled."""
        before = await self._count()

        async def are_enough() -> bool:
            return await self._count() >= before + more

        await eventually(are_enough, seconds=60)

    async def _count(self) -> int:
        found: int = await self._inventory.fetchval("select count(*) from handled")
        return found

    async def _all_is_handled(self) -> bool:
        return await self._count() >= self.written * len(KEYS)

    async def check(self) -> None:
        handled = {row["key"]: row["versions"] for row in await self._inventory.fetch(_HANDLED)}
        assert handled == {key: list(range(1, self.written + 1)) for key in KEYS}


@pytest.fixture
async def flow(database: Database, kafka: str, open_pool: OpenPool, monkeypatch: pytest.MonkeyPatch) -> Flow:
    await topics.create(kafka, BEFORE, 1)
    monkeypatch.setattr(growth, "READS", {"inventory": (TOPIC,)})
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute("create table inventory.handled (n bigserial, key int, version int)")
    await admin.execute("grant select, insert on inventory.handled to inventory_user")
    await admin.execute("grant usage on sequence inventory.handled_n_seq to inventory_user")
    await admin.close()
    return Flow(database, kafka, await open_pool("orders"), await open_pool("inventory"))


async def test_more_lanes_and_then_more_partitions_keep_the_order_of_each_key(
    database: Database, kafka: str, flow: Flow, pool: Pool
) -> None:
    async with flow.running():
        await growth.add_lanes(database.admin_url, "orders", AFTER)
        await flow.fall_behind()
        changed = await growth.add_partitions(database.admin_url, kafka, AFTER)
        again = await growth.add_partitions(database.admin_url, kafka, AFTER)
    await flow.check()
    assert TOPIC in changed
    assert again == []
    assert await pool.fetchval("select count(*) from outbox_lanes") == AFTER
    rows = await pool.fetch("select distinct lane, hash from outbox")
    assert {row["lane"] for row in rows} == {events.hash_of(str(key)) % AFTER for key in KEYS}
    async with tail(kafka, TOPIC, from_the_beginning=True) as published:
        records = await published()
    latest = sorted(records, key=lambda record: record.timestamp_ms)
    last = {record.key: record.partition for record in latest}
    assert last == {str(key).encode(): events.hash_of(str(key)) % AFTER for key in KEYS}


async def test_rows_that_are_not_published_move_to_the_lanes_of_today_in_their_order(
    database: Database, kafka: str, pool: Pool
) -> None:
    await topics.create(kafka, BEFORE, 1)
    relay = Relay(database.url_for("orders"), kafka, service="orders", owner="test")
    for version in range(1, 4):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_confirmed(key, version) for key in KEYS])
        if version == 1:
            await relay.run_once()
            await relay.close()
    await growth.add_lanes(database.admin_url, "orders", AFTER)
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(key, 4) for key in KEYS])
    waiting = await pool.fetch(
        "select lane, hash, key, (convert_from(value, 'UTF8')::jsonb ->> 'version')::int as version "
        "from outbox o join outbox_lanes l using (lane) where (o.xid, o.id) > (l.xid, l.id) order by o.xid, o.id"
    )
    assert {row["lane"] - row["hash"] % AFTER for row in waiting} == {0}
    for key in KEYS:
        assert [row["version"] for row in waiting if row["key"] == str(key)] == [2, 3, 4]


async def test_no_partition_is_added_while_a_consumer_is_behind(
    database: Database, kafka: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await topics.create(kafka, BEFORE, 1)
    monkeypatch.setattr(growth, "READS", {"absent": (TOPIC,)})
    monkeypatch.setattr(growth, "_DRAIN_SECONDS", 0.0)
    relay = Relay(database.url_for("orders"), kafka, service="orders", owner="test")
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed()])
    await relay.run_once()
    with pytest.raises(growth.NotDrained, match="absent"):
        await growth.add_partitions(database.admin_url, kafka, 50)
    assert await relay_continues(relay, pool)
    await relay.close()


async def relay_continues(relay: Relay, pool: Pool) -> bool:
    """True if the pause is over: the relay takes its lanes again and publishes."""
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(2)])
    return bool(await eventually(relay.run_once, seconds=20))


async def test_lanes_are_not_added_while_kafka_refuses_rows_and_never_taken_away(
    database: Database, pool: Pool
) -> None:
    with pytest.raises(asyncpg.RaiseError, match="fewer lanes"):
        await growth.add_lanes(database.admin_url, "orders", 3)
    await pool.execute(REFUSED)
    with pytest.raises(asyncpg.RaiseError, match="refuses rows"):
        await growth.add_lanes(database.admin_url, "orders", 8)
    assert await pool.fetchval("select count(*) from outbox_lanes") == 4
