"""The cursor, the key locks and the leases: together they make a relay read every row once and in order."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from asyncpg import Pool

from shared import postgres
from shared.delivery import outbox
from shared.delivery.lanes import Lanes, Limit, RestoredElsewhere, Row, ends_of, held_back_by, read
from shared.postgres import Plain
from tests.builders import eventually, order_confirmed
from tests.conftest import Database

Reader = Callable[[], Awaitable[list[int]]]


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Plain]:
    opened = await postgres.connect(database.url_for("orders"))
    yield opened
    await opened.close()


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[Plain]:
    """A connection with an open transaction."""
    conn = await postgres.connect(database.url_for("orders"))
    async with conn.transaction():
        yield conn
    await conn.close()


async def take_xid(conn: Plain) -> None:
    await conn.execute("select pg_current_xact_id()")


async def append(pool: Pool, *ids: int) -> None:
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_confirmed(id_) for id_ in ids])


def reader(conn: Plain, lanes: Lanes) -> Reader:
    """A function that reads as the relay does, and moves the cursor."""

    async def turn() -> list[int]:
        rows = await read(conn, lanes.positions, Limit(1000, 10**9))
        await lanes.advance(conn, ends_of(rows))
        return ids_of(rows)

    return turn


def naive_reader(conn: Plain) -> Reader:
    """A function that reads with the most obvious cursor, over ids alone."""
    last = 0

    async def turn() -> list[int]:
        nonlocal last
        rows = await conn.fetch("select id, key from outbox where id > $1 order by id", last)
        last = max([last, *(row["id"] for row in rows)])
        return ids_of(rows)

    return turn


def ids_of(rows: list[Row]) -> list[int]:
    return [int(row["key"]) for row in rows]


async def read_around_a_late_commit(database: Database, pool: Pool, turn: Reader) -> list[int]:
    """One transaction gets its xid and id early and commits late; another one overtakes it."""
    async with session(database) as late:
        await outbox.append(late, [order_confirmed(1)])
        await append(pool, 1, 1)
        seen = await turn()
    return seen + await turn()


async def test_a_row_that_commits_late_is_not_skipped(database: Database, pool: Pool, conn: Plain) -> None:
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)

    assert len(await read_around_a_late_commit(database, pool, reader(conn, lanes))) == 3


async def test_a_cursor_over_ids_alone_loses_a_row_that_commits_late(
    database: Database, pool: Pool, conn: Plain
) -> None:
    assert len(await read_around_a_late_commit(database, pool, naive_reader(conn))) == 2


async def test_rows_are_read_in_the_order_of_xid_and_then_id(database: Database, pool: Pool, conn: Plain) -> None:
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    async with session(database) as early:
        await take_xid(early)
        await append(pool, 1)
        await outbox.append(early, [order_confirmed(1, version=v) for v in (10, 11)])

    rows = await read(conn, lanes.positions, Limit(100, 10**9))

    assert [(row["xid"], row["id"]) for row in rows] == sorted((row["xid"], row["id"]) for row in rows)
    assert [row["id"] for row in rows] != sorted(row["id"] for row in rows)


async def test_interleaved_writers_and_a_small_limit_skip_no_row(database: Database, pool: Pool, conn: Plain) -> None:
    lanes, seen = Lanes("a", 30.0), list[tuple[int, int]]()
    await lanes.renew(conn)

    async def write(first: int) -> None:
        async with postgres.transaction(pool) as tx:
            for id_ in range(first, first + 10):
                await outbox.append(tx, [order_confirmed(id_)])
                await asyncio.sleep(0)

    async def all_is_read() -> bool:
        rows = await read(conn, lanes.positions, Limit(3, 10**9))
        await lanes.advance(conn, ends_of(rows))
        seen.extend((row["lane"], row["id"]) for row in rows)
        return len(seen) >= 400

    writing = asyncio.gather(*[write(n * 10 + 1) for n in range(40)])
    await eventually(all_is_read, pause=0)
    await writing
    assert len(set(seen)) == len(seen) == 400
    assert await read(conn, lanes.positions, Limit(10, 10**9)) == []


async def test_rows_are_read_while_another_session_has_an_old_snapshot(
    database: Database, pool: Pool, conn: Plain
) -> None:
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    async with session(database) as old:
        await old.execute("set transaction isolation level repeatable read")
        await old.execute("select count(*) from outbox")
        await append(pool, 7)

        assert ids_of(await read(conn, lanes.positions, Limit(10, 10**9))) == [7]


async def test_an_open_write_transaction_delays_rows_and_is_reported(
    database: Database, pool: Pool, conn: Plain
) -> None:
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    async with session(database) as writer:
        await take_xid(writer)
        await append(pool, 7)
        held_back = await read(conn, lanes.positions, Limit(10, 10**9))
        culprit = await held_back_by(conn)
        pid = writer.get_server_pid()

    assert held_back == []
    assert culprit is not None
    assert (culprit["pid"], culprit["usename"], culprit["datname"]) == (pid, "orders_user", database.name)
    assert "pg_current_xact_id" in culprit["query"]
    assert ids_of(await read(conn, lanes.positions, Limit(10, 10**9))) == [7]
    assert await held_back_by(conn) is None


@pytest.mark.parametrize(("locking", "published"), [(False, [2, 1]), (True, [1, 2])])
async def test_versions_of_a_key_are_published_in_order_only_if_its_lock_is_taken_before_the_xid(
    database: Database, conn: Plain, locking: bool, published: list[int]
) -> None:
    early_has_xid, early_may_write = asyncio.Event(), asyncio.Event()

    async def write(tx: Plain, has_xid: asyncio.Event, may_write: asyncio.Event) -> None:
        if locking:
            await postgres.lock_keys(tx, ["1"])
        await take_xid(tx)
        has_xid.set()
        await may_write.wait()
        version = 1 + await tx.fetchval("select count(*) from outbox where key = '1'")
        await outbox.append(tx, [order_confirmed(1, version)])

    async def early() -> None:
        async with session(database) as tx:
            await write(tx, early_has_xid, early_may_write)

    async def late() -> None:
        at_once = asyncio.Event()
        at_once.set()
        await early_has_xid.wait()
        async with session(database) as tx:
            await write(tx, asyncio.Event(), at_once)

    async def late_is_done_or_waits() -> bool:
        return task.done() or await conn.fetchval("select exists (select from pg_locks where not granted)")

    first, task = asyncio.create_task(early()), asyncio.create_task(late())
    await eventually(late_is_done_or_waits)
    early_may_write.set()
    await asyncio.gather(first, task)

    rows = await conn.fetch("select convert_from(value, 'UTF8')::jsonb -> 'version' v from outbox order by xid, id")
    assert [row["v"] for row in rows] == published


async def test_batches_that_lock_the_same_keys_in_different_orders_do_not_deadlock(pool: Pool) -> None:
    keys = [str(n) for n in range(200)]

    async def lock(order: list[str]) -> None:
        async with postgres.transaction(pool) as tx:
            await postgres.lock_keys(tx, order)

    await asyncio.gather(*[lock(keys if n % 2 else keys[::-1]) for n in range(40)])


async def test_a_single_relay_takes_all_lanes(conn: Plain) -> None:
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    assert sorted(lanes.held) == [0, 1, 2, 3]


async def test_two_relays_share_the_lanes_evenly(conn: Plain) -> None:
    a, b = Lanes("a", 3.0), Lanes("b", 3.0)
    for relay in (a, b, a, b):
        await relay.renew(conn)
    assert len(a.held) == len(b.held) == 2
    assert a.held.keys().isdisjoint(b.held)


async def test_the_lanes_of_a_dead_relay_are_taken_after_its_lease(conn: Plain) -> None:
    dead, successor = Lanes("dead", 0.3), Lanes("successor", 3.0)
    await dead.renew(conn)
    await successor.renew(conn)
    assert successor.held == {}

    async def has_all() -> bool:
        await successor.renew(conn)
        return len(successor.held) == 4

    await eventually(has_all, seconds=2)


async def test_a_relay_that_was_frozen_beyond_its_lease_moves_no_cursor_and_drops_the_lane(
    pool: Pool, conn: Plain
) -> None:
    frozen, successor = Lanes("frozen", 0.2), Lanes("successor", 3.0)
    await frozen.renew(conn)
    await append(pool, 1)
    stale = await read(conn, frozen.positions, Limit(10, 10**9))
    await append(pool, 1)

    async def taken() -> bool:
        await successor.renew(conn)
        return len(successor.held) == 4

    await eventually(taken)
    lane = stale[0]["lane"]
    await successor.advance(conn, ends_of(await read(conn, successor.positions, Limit(10, 10**9))))
    end = await conn.fetchrow("select xid, id from outbox_lanes where lane = $1", lane)
    await frozen.advance(conn, ends_of(stale))

    assert await conn.fetchrow("select xid, id from outbox_lanes where lane = $1", lane) == end
    assert lane not in frozen.held


async def test_a_slow_relay_that_lost_its_lane_moves_no_cursor_even_if_the_new_owner_has_not_read_yet(
    pool: Pool, conn: Plain
) -> None:
    slow, successor = Lanes("slow", 0.2), Lanes("successor", 3.0)
    await slow.renew(conn)
    await append(pool, 1)
    rows = await read(conn, slow.positions, Limit(10, 10**9))

    async def taken() -> bool:
        await successor.renew(conn)
        return len(successor.held) == 4

    await eventually(taken)
    lane = rows[0]["lane"]
    before = await conn.fetchrow("select xid, id, owner from outbox_lanes where lane = $1", lane)
    await slow.advance(conn, ends_of(rows))

    assert await conn.fetchrow("select xid, id, owner from outbox_lanes where lane = $1", lane) == before
    assert len(await read(conn, successor.positions, Limit(10, 10**9))) == 1
    assert lane not in slow.held


async def test_an_owner_moves_no_cursor_in_an_epoch_that_is_over(pool: Pool, conn: Plain) -> None:
    """The lane was lost and taken again: rows that were sent in the first epoch must not count in the second."""
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    await append(pool, 1)
    rows = await read(conn, lanes.positions, Limit(10, 10**9))
    lane = rows[0]["lane"]
    await conn.execute("update outbox_lanes set epoch = epoch + 1 where lane = $1", lane)
    before = await conn.fetchrow("select xid, id from outbox_lanes where lane = $1", lane)

    await lanes.advance(conn, ends_of(rows))

    assert await conn.fetchrow("select xid, id from outbox_lanes where lane = $1", lane) == before


@pytest.mark.parametrize("relays", [2, 3, 4, 5])
async def test_every_lane_has_a_relay_however_many_relays_there_are(conn: Plain, relays: int) -> None:
    all_lanes = [Lanes(f"relay {n}", 30.0) for n in range(relays)]
    for _ in range(3):
        for lanes in all_lanes:
            await lanes.renew(conn)

    assert sorted(lane for lanes in all_lanes for lane in lanes.held) == [0, 1, 2, 3]
    assert max(len(lanes.held) for lanes in all_lanes) <= -(-4 // relays)


async def test_released_lanes_are_taken_at_once(conn: Plain) -> None:
    a, b = Lanes("a", 60.0), Lanes("b", 60.0)
    await a.renew(conn)
    await b.renew(conn)
    await a.give_back(conn)
    await b.renew(conn)
    assert (len(a.held), len(b.held)) == (0, 4)


async def test_a_database_restored_into_another_cluster_is_refused(conn: Plain, owner: Pool) -> None:
    await owner.execute("update outbox_lanes set system_identifier = 1 where lane = 2")
    with pytest.raises(RestoredElsewhere):
        await Lanes("a", 3.0).renew(conn)
