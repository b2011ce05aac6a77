"""The janitor: the DEFAULT partition takes rows whose day has no partition, so that no insert fails."""

import asyncio
from datetime import UTC, date, datetime, time, timedelta

import asyncpg
import pytest
from asyncpg import Pool
from uuid_utils.compat import uuid7

from shared import postgres
from shared.delivery import inbox, outbox, partitions
from shared.delivery.lanes import Lanes, Limit, first_day, read
from tests.builders import eventually, id_at, order_confirmed
from tests.conftest import Database


def today() -> date:
    return datetime.now(UTC).date()


async def drop_todays_partitions(owner: Pool) -> None:
    for table in ("outbox", "inbox"):
        await owner.execute(f"drop table {table}_{today():%Y%m%d}")


async def append(pool: Pool, id_: int) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_)])
        await inbox.add(conn, "test", [uuid7()], [])


async def test_rows_of_the_default_partition_move_to_their_day_and_keep_their_position(pool: Pool, owner: Pool) -> None:
    await drop_todays_partitions(owner)
    for id_ in range(1, 21):
        await append(pool, id_)
    before = await owner.fetch("select xid, id, key, event_id from outbox_default order by xid, id")

    made = await partitions.run_once(pool)

    assert made == 2
    assert len(before) == 20
    assert await owner.fetch(f"select xid, id, key, event_id from outbox_{today():%Y%m%d} order by xid, id") == before
    assert await owner.fetchval(f"select count(*) from inbox_{today():%Y%m%d}") == 20
    for table in ("outbox", "inbox"):
        assert await owner.fetchval(f"select count(*) from {table}_default") == 0


async def test_rows_are_read_in_order_before_and_after_they_moved(pool: Pool, owner: Pool) -> None:
    await drop_todays_partitions(owner)
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


async def test_inserts_continue_while_a_partition_is_created(pool: Pool, owner: Pool) -> None:
    await drop_todays_partitions(owner)
    made = asyncio.Event()

    async def write(n: int) -> int:
        written = 0
        while not made.is_set():
            await append(pool, n)
            written += 1
        return written

    writers = [asyncio.create_task(write(n)) for n in range(1, 7)]
    await eventually(lambda: owner.fetchval("select exists (select from outbox_default offset 20)"), pause=0)
    await partitions.run_once(pool)
    made.set()
    written = sum(await asyncio.gather(*writers))

    assert await pool.fetchval("select count(*) from outbox") == written
    assert await pool.fetchval("select count(*) from inbox") == written
    assert await owner.fetchval("select count(*) from outbox_default") == 0


async def test_the_janitor_changes_nothing_when_all_partitions_exist(pool: Pool) -> None:
    assert await partitions.run_once(pool) == 0


async def test_two_janitors_at_once_create_each_partition_once(pool: Pool, owner: Pool) -> None:
    await drop_todays_partitions(owner)
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


async def make_old_day(pool: Pool, days_ago: int, *, rows: int = 3) -> str:
    """Partitions of a day in the past, with rows. Returns the day as in their names."""
    day = today() - timedelta(days=days_ago)
    noon = datetime.combine(day, time(12), UTC)
    for table in ("outbox", "inbox"):
        await pool.execute("select make_day($1, $2)", table, day)
    await pool.execute(
        """insert into outbox (lane, hash, event_id, topic, key, type, head, value, occurred_at)
           select n % 4, 0, gen_random_uuid(), 'orders.events', n::text, 'T', '', 'x', $1
             from generate_series(1, $2) n""",
        noon,
        rows,
    )
    await pool.executemany("insert into inbox values ($1, 'test')", [(id_at(noon, n),) for n in range(rows)])
    return f"{day:%Y%m%d}"


async def publish_all(pool: Pool) -> None:
    await pool.execute("update outbox_lanes set xid = pg_snapshot_xmax(pg_current_snapshot()), id = 0")


async def exists(pool: Pool, name: str) -> bool:
    return await pool.fetchval("select to_regclass($1) is not null", name)


async def test_days_are_dropped_when_their_retention_is_over(pool: Pool) -> None:
    old = [await make_old_day(pool, days_ago) for days_ago in (8, 9, 10, 11)]
    await publish_all(pool)
    await partitions.run_once(pool)
    assert [await exists(pool, f"outbox_{day}") for day in old] == [True, False, False, False]
    assert [await exists(pool, f"inbox_{day}") for day in old] == [True, True, False, False]
    assert await exists(pool, f"outbox_{today():%Y%m%d}")
    assert await pool.fetchval("select count(*) from outbox") == 3


async def test_an_old_day_with_a_row_that_is_not_published_stays(pool: Pool, owner: Pool) -> None:
    older, old = [await make_old_day(pool, days_ago) for days_ago in (13, 12)]
    await publish_all(pool)
    xid, id_ = await owner.fetchrow(f"select xid, id from outbox_{old} where lane = 1 order by xid desc, id desc")
    await pool.execute("update outbox_lanes set xid = $1, id = $2 where lane = 1", xid, id_ - 1)
    await partitions.run_once(pool)
    assert await exists(pool, f"outbox_{old}")
    await pool.execute("update outbox_lanes set id = $1 where lane = 1", id_)
    await partitions.run_once(pool)
    assert not await exists(pool, f"outbox_{old}")
    assert not await exists(pool, f"outbox_{older}")


async def test_an_old_day_with_a_refused_row_stays_until_the_row_is_resolved(pool: Pool, owner: Pool) -> None:
    old = await make_old_day(pool, 12)
    await publish_all(pool)
    await owner.execute(
        f"insert into outbox_refused (lane, xid, id, topic, key, reason) "
        f"select lane, xid, id, topic, key, 'too large' from outbox_{old} limit 1"
    )
    await partitions.run_once(pool)
    assert await exists(pool, f"outbox_{old}")
    await pool.execute("update outbox_refused set resolved_at = now()")
    await partitions.run_once(pool)
    assert not await exists(pool, f"outbox_{old}")


async def test_rows_of_a_past_day_leave_the_default_partition(pool: Pool, owner: Pool) -> None:
    old = await make_old_day(pool, 5)
    for table in ("outbox", "inbox"):
        await owner.execute(f"alter table {table} detach partition {table}_{old}")
        await owner.execute(f"insert into {table} select * from {table}_{old}")
        await owner.execute(f"drop table {table}_{old}")
    await partitions.run_once(pool)
    for table in ("outbox", "inbox"):
        assert await owner.fetchval(f"select count(*) from {table}_default") == 0
        assert await owner.fetchval(f"select count(*) from {table}_{old}") == 3


async def test_strays_that_cannot_move_are_deleted_when_their_retention_is_over(
    pool: Pool, owner: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_STRAY_DAYS", 0)  # as if they were too many to move
    monkeypatch.setattr(partitions, "_STRAY_ROWS", 2)
    old = await make_old_day(pool, 20, rows=5)
    for table in ("outbox", "inbox"):
        await owner.execute(f"alter table {table} detach partition {table}_{old}")
        await owner.execute(f"insert into {table} select * from {table}_{old}")
    await append(pool, 1)
    await partitions.run_once(pool)
    assert await owner.fetchval("select count(*) from outbox_default") == 5  # not published
    assert await owner.fetchval("select count(*) from inbox_default") == 0
    await publish_all(pool)
    await partitions.run_once(pool)
    assert await owner.fetchval("select count(*) from outbox_default") == 0
    assert await pool.fetchval("select count(*) from outbox") == 1


async def test_no_call_drops_a_day_that_the_inbox_or_a_relay_may_need(pool: Pool) -> None:
    with pytest.raises(asyncpg.RaiseError, match="too young"):
        await pool.execute("select drop_day('inbox', $1)", today() - timedelta(days=7))
    with pytest.raises(asyncpg.RaiseError, match="too young"):
        await pool.execute("select drop_strays('outbox', $1, 1)", today())
    with pytest.raises(asyncpg.PostgresError):
        await pool.execute("select make_day('parked', $1)", today())


async def test_a_temporary_table_cannot_take_the_place_of_one_of_the_toolkits(pool: Pool) -> None:
    old = await make_old_day(pool, 12)
    async with pool.acquire() as conn:
        await conn.execute("create temporary table outbox_lanes (lane int)")
        assert str(await conn.fetchval("select first_unpublished_day()")).replace("-", "") == old
        assert not await conn.fetchval("select drop_day('outbox', $1)", today() - timedelta(days=12))
        await conn.execute("drop table pg_temp.outbox_lanes")


async def test_a_read_of_a_relay_locks_only_the_days_that_may_have_unpublished_rows(
    pool: Pool, database: Database
) -> None:
    for days_ago in range(2, 40):
        await pool.execute("select make_day('outbox', $1)", today() - timedelta(days=days_ago))
    await publish_all(pool)
    await append(pool, 1)
    conn = await postgres.connect(database.url_for("orders"))
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    since = await first_day(conn)
    assert since == today() - timedelta(days=1)
    async with conn.transaction():
        assert len(await read(conn, lanes.positions, Limit(10, 10**9), since)) == 1
        locked = await conn.fetch(
            "select distinct relation::regclass::text as name from pg_locks where pid = pg_backend_pid() "
            "and relation::regclass::text ~ '^outbox_[0-9]{8}$'"
        )
    await conn.close()
    assert min(row["name"] for row in locked) == f"outbox_{since:%Y%m%d}"
    assert len(locked) == 2 + partitions.DAYS_AHEAD


async def test_a_read_reaches_back_to_the_oldest_row_that_is_not_published(pool: Pool, database: Database) -> None:
    old = await make_old_day(pool, 30)
    await append(pool, 1)
    async with pool.acquire() as conn:
        lanes = Lanes("a", 3.0)
        await lanes.renew(conn)
        since = await first_day(conn)
        assert since == datetime.strptime(old, "%Y%m%d").replace(tzinfo=UTC).date() - timedelta(days=1)
        rows = await read(conn, lanes.positions, Limit(10, 10**9), since)
    assert len(rows) == 4


async def test_expired_rows_of_other_tables_are_deleted_and_open_ones_stay(pool: Pool) -> None:
    await pool.execute(
        """insert into outbox_refused values (0, '1', 1, 't', 'k', 'r', '2020-01-01', '2020-01-01'),
                                             (0, '1', 2, 't', 'k', 'r', '2020-01-01', null),
                                             (0, '1', 3, 't', 'k', 'r', '2020-01-01', now())"""
    )
    calls = []

    async def own(conn: postgres.Connection) -> int:
        calls.append(1)
        return 3 - len(calls)

    await partitions.forget(pool, [own])
    assert [row["id"] for row in await pool.fetch("select id from outbox_refused order by id")] == [2, 3]
    assert len(calls) == 3
