"""The janitor: the DEFAULT partition takes rows whose day has no partition, so that no insert fails."""

import asyncio
from datetime import UTC, date, datetime

import pytest
from asyncpg import Pool
from uuid_utils.compat import uuid7

from shared import postgres
from shared.delivery import inbox, outbox, partitions
from shared.delivery.lanes import Lanes, Limit, read
from tests.builders import eventually, order_confirmed


def today() -> date:
    return datetime.now(UTC).date()


async def drop_todays_partitions(pool: Pool) -> None:
    for table in ("outbox", "inbox"):
        await pool.execute(f"drop table {table}_{today():%Y%m%d}")


async def append(pool: Pool, id_: int) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_)])
        await inbox.add(conn, "test", [uuid7()], [])


async def test_rows_of_the_default_partition_move_to_their_day_and_keep_their_position(pool: Pool) -> None:
    await drop_todays_partitions(pool)
    for id_ in range(1, 21):
        await append(pool, id_)
    before = await pool.fetch("select xid, id, key, event_id from outbox_default order by xid, id")

    made = await partitions.run_once(pool)

    assert made == 2
    assert len(before) == 20
    assert await pool.fetch(f"select xid, id, key, event_id from outbox_{today():%Y%m%d} order by xid, id") == before
    assert await pool.fetchval(f"select count(*) from inbox_{today():%Y%m%d}") == 20
    for table in ("outbox", "inbox"):
        assert await pool.fetchval(f"select count(*) from {table}_default") == 0


async def test_rows_are_read_in_order_before_and_after_they_moved(pool: Pool) -> None:
    await drop_todays_partitions(pool)
    lanes = Lanes("a", 3.0)
    for id_ in range(1, 21):
        await append(pool, id_)
    async with pool.acquire() as conn:
        await lanes.renew(conn)
        caught = await read(conn, lanes.positions, Limit(100, 10**9))
        await partitions.run_once(pool)
        moved = await read(conn, lanes.positions, Limit(100, 10**9))

    assert len(caught) == 20
    assert caught == moved


async def test_inserts_continue_while_a_partition_is_created(pool: Pool) -> None:
    await drop_todays_partitions(pool)
    made = asyncio.Event()

    async def write(n: int) -> int:
        written = 0
        while not made.is_set():
            await append(pool, n)
            written += 1
        return written

    writers = [asyncio.create_task(write(n)) for n in range(1, 7)]
    await eventually(lambda: pool.fetchval("select exists (select from outbox_default offset 20)"), pause=0)
    await partitions.run_once(pool)
    made.set()
    written = sum(await asyncio.gather(*writers))

    assert await pool.fetchval("select count(*) from outbox") == written
    assert await pool.fetchval("select count(*) from inbox") == written
    assert await pool.fetchval("select count(*) from outbox_default") == 0


async def test_the_janitor_changes_nothing_when_all_partitions_exist(pool: Pool) -> None:
    assert await partitions.run_once(pool) == 0


async def test_two_janitors_at_once_create_each_partition_once(pool: Pool) -> None:
    await drop_todays_partitions(pool)
    results = await asyncio.gather(partitions.run_once(pool), partitions.run_once(pool), return_exceptions=True)
    assert [r for r in results if isinstance(r, Exception) and not isinstance(r, postgres.ERRORS)] == []
    assert await partitions.run_once(pool) == 0


@pytest.mark.parametrize("days_off", [0, 6])
async def test_rows_of_today_and_of_next_week_have_their_own_partitions(pool: Pool, days_off: int) -> None:
    where = await pool.fetchval(
        """insert into outbox (lane, hash, event_id, topic, key, type, head, value, occurred_at)
           values (0, 0, gen_random_uuid(), 'orders.events', '1', 'T', '', '', now() + $1 * interval '1 day')
           returning tableoid::regclass::text""",
        days_off,
    )
    assert where != "outbox_default"
