"""Group commit: every caller gets a true answer in time, even if Postgres fails or freezes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import psutil
import pytest
from asyncpg import Pool

from local import ports
from local.postgres import Postgres
from local.process import Server
from shared import postgres
from shared.errors import OutcomeUnknown, Refused
from shared.postgres import GroupCommit, Plain
from tests.builders import eventually
from tests.conftest import Database, create_table
from tests.lag import Lag

Group = GroupCommit[int, int]
RunGroup = Callable[..., AbstractAsyncContextManager[Group]]

TABLE = "things (id bigint primary key, attempts int not null default 1, check (id <> 13))"


async def write(conn: Plain, ids: Sequence[int]) -> list[int | Exception]:
    """Store each id once; `attempts` counts how often the same id was written."""
    rows = await conn.fetch(
        """insert into things (id) select unnest($1::bigint[])
           on conflict (id) do update set attempts = things.attempts + 1 returning id""",
        ids,
    )
    assert len(rows) == len(ids)
    return [LookupError(id_) if id_ == 404 else id_ * 10 for id_ in ids]


@asynccontextmanager
async def running(group: Group) -> AsyncIterator[Group]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(group.run(stop))
        await asyncio.sleep(0)  # let its workers start
        try:
            yield group
        finally:
            stop.set()


@pytest.fixture
async def things(pool: Pool, owner: Pool) -> Pool:
    await create_table(owner, TABLE)
    return pool


@pytest.fixture
def url(database: Database, things: Pool) -> str:
    return database.url_for("orders")


async def ids(pool: Pool | Plain) -> list[int]:
    return [row["id"] for row in await pool.fetch("select id from things order by id")]


async def outcome(work: asyncio.Task[int]) -> object:
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # the error is the result
        return type(error)


async def test_each_caller_gets_its_own_result(url: str, things: Pool) -> None:
    async with running(GroupCommit(url, write, name="test")) as group:
        results = await asyncio.gather(*[group.submit(id_) for id_ in range(1000, 2000)])

    assert results == [id_ * 10 for id_ in range(1000, 2000)]
    assert await ids(things) == list(range(1000, 2000))


async def test_many_callers_share_one_statement(url: str, things: Pool) -> None:
    async with running(GroupCommit(url, write, name="test", workers=1, max_batch=100)) as group:
        await asyncio.gather(*[group.submit(id_) for id_ in range(1000, 2000)])

    assert await things.fetchval("select count(distinct xmin::text) from things") <= 11


async def test_a_bad_row_does_not_fail_the_other_rows(url: str, things: Pool) -> None:
    async with running(GroupCommit(url, write, name="test", workers=1)) as group:
        tasks = [asyncio.create_task(group.submit(id_)) for id_ in (11, 12, 13, 14)]
        results = [await outcome(task) for task in tasks]

    assert results == [110, 120, asyncpg.CheckViolationError, 140]
    assert await ids(things) == [11, 12, 14]


async def test_a_result_that_is_an_exception_is_raised_only_for_its_caller(url: str, things: Pool) -> None:
    async with running(GroupCommit(url, write, name="test", workers=1)) as group:
        tasks = [asyncio.create_task(group.submit(id_)) for id_ in (403, 404, 405)]
        results = [await outcome(task) for task in tasks]

    assert results == [4030, LookupError, 4050]


async def test_a_full_queue_refuses_callers(url: str, things: Pool) -> None:
    group: Group = GroupCommit(url, write, name="test", max_waiting=5)
    tasks = [asyncio.create_task(group.submit(id_)) for id_ in range(1, 8)]
    await asyncio.sleep(0)
    async with running(group):
        results = [await outcome(task) for task in tasks]

    assert results == [10, 20, 30, 40, 50, Refused, Refused]
    assert await ids(things) == [1, 2, 3, 4, 5]


async def test_a_cancelled_caller_does_not_cancel_its_write(url: str, things: Pool) -> None:
    group: Group = GroupCommit(url, write, name="test")
    task = asyncio.create_task(group.submit(1))
    await asyncio.sleep(0)
    task.cancel()
    async with running(group):
        assert await group.submit(2) == 20

    assert await ids(things) == [1, 2]


async def test_waiting_rows_are_written_before_a_stop_and_later_rows_are_refused(url: str, things: Pool) -> None:
    group: Group = GroupCommit(url, write, name="test", workers=1, max_batch=10)
    tasks = [asyncio.create_task(group.submit(id_)) for id_ in range(101, 201)]
    async with running(group):
        pass
    with pytest.raises(Refused):
        await group.submit(1)

    assert [await outcome(task) for task in tasks] == [id_ * 10 for id_ in range(101, 201)]
    assert await ids(things) == list(range(101, 201))


async def test_callers_get_a_true_answer_in_time_while_a_lock_delays_the_write(
    url: str, things: Pool, database: Database, lag: Lag
) -> None:
    group: Group = GroupCommit(url, write, name="test", workers=1, deadline_seconds=0.5)
    other = await postgres.connect(database.url_for("orders"))
    async with running(group):
        await group.submit(1)
        began = time.monotonic()
        async with other.transaction():
            await other.execute("lock table things in access exclusive mode")
            sent = asyncio.create_task(group.submit(2))
            await eventually(lambda: is_waiting_for_a_lock(other))
            waiting = asyncio.create_task(group.submit(3))
            results = [await outcome(task) for task in (sent, waiting)]
        took = lag.elapsed(began)
        assert await group.submit(4) == 40
    await other.close()

    assert results == [OutcomeUnknown, Refused]
    assert took < 1.2
    assert await ids(things) == [1, 2, 4]


async def is_waiting_for_a_lock(conn: Plain) -> bool:
    return await conn.fetchval("select exists (select from pg_locks where not granted)")


async def test_a_write_that_lost_its_connection_is_repeated_with_the_same_ids(
    url: str, things: Pool, database: Database
) -> None:
    killed: list[int] = []

    async def write_and_lose_the_connection(conn: Plain, given: Sequence[int]) -> list[int | Exception]:
        results = await write(conn, given)  # committed
        if not killed:
            killed.append(conn.get_server_pid())
            await things.execute("select pg_terminate_backend($1)", killed[0])
            await conn.execute("select 1")  # fails: the connection is gone
        return results

    async with running(GroupCommit(url, write_and_lose_the_connection, name="test", workers=1)) as group:
        assert await group.submit(7) == 70

    assert [tuple(row) for row in await things.fetch("select id, attempts from things")] == [(7, 2)]


async def test_connections_killed_under_load_lose_and_double_nothing(url: str, things: Pool) -> None:
    async def kill() -> None:
        for _ in range(10):
            await things.execute(
                """select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name = 'test group' and datname = current_database()"""
            )
            await asyncio.sleep(0.03)

    async with running(GroupCommit(url, write, name="test", max_batch=20)) as group:
        killing = asyncio.create_task(kill())
        results = []
        for first in range(1000, 3000, 100):
            results += await asyncio.gather(*[group.submit(id_) for id_ in range(first, first + 100)])
        await killing

    assert results == [id_ * 10 for id_ in range(1000, 3000)]
    assert await ids(things) == list(range(1000, 3000))


async def test_without_postgres_callers_are_refused_in_time(url: str, lag: Lag) -> None:
    nowhere = f"postgresql://x:x@127.0.0.1:{ports.free_block(1)}/x"
    async with running(GroupCommit(nowhere, write, name="test", deadline_seconds=0.4)) as group:
        began = time.monotonic()
        results = [await outcome(asyncio.create_task(group.submit(id_))) for id_ in (1, 2)]
        took = lag.elapsed(began)

    assert results == [Refused, Refused]
    assert took < 1.2


@pytest.fixture
async def own_postgres(run_folder: object) -> AsyncIterator[tuple[Server, str]]:
    """A server with the table, which a test may freeze; yields the server and its URL."""
    root = run_folder / "own-postgres"  # type: ignore[operator]
    engine = Postgres(root, ports.free_block(1), settings={"fsync": "off", "shared_buffers": "32MB"})
    server = Server(engine, root)
    await asyncio.to_thread(server.start)
    url = f"postgresql://postgres:postgres@127.0.0.1:{engine.ports[0]}/quickbite"
    conn = await postgres.connect(url)
    await conn.execute(f"drop table if exists things; create table {TABLE}")
    await conn.close()
    yield server, url
    signal_all(server, signal.SIGCONT)
    await asyncio.to_thread(server.stop)


def signal_all(server: Server, what: signal.Signals) -> None:
    process = psutil.Process(server.pid)
    for one in (process, *process.children(recursive=True)):
        os.kill(one.pid, what)


async def test_callers_get_a_true_answer_in_time_while_postgres_is_frozen(
    own_postgres: tuple[Server, str], lag: Lag
) -> None:
    server, url = own_postgres
    group: Group = GroupCommit(url, write, name="test", workers=1, deadline_seconds=1.0)
    async with running(group):
        await group.submit(1)
        signal_all(server, signal.SIGSTOP)
        began = time.monotonic()
        sent = asyncio.create_task(group.submit(2))
        await eventually(lambda: is_taken(group))
        waiting = asyncio.create_task(group.submit(3))
        results = [await outcome(task) for task in (sent, waiting)]
        took = lag.elapsed(began)
        signal_all(server, signal.SIGCONT)
        assert await eventually(lambda: answers(group, 4)) == 40
    conn = await postgres.connect(url)
    written = await ids(conn)
    await conn.close()

    assert results == [OutcomeUnknown, Refused]
    assert took < 1.4
    assert written == [1, 2, 4]


async def is_taken(group: Group) -> bool:
    return bool(group._taken) and all(item.sent for item in group._taken)


async def answers(group: Group, id_: int) -> int | None:
    try:
        return await group.submit(id_)
    except (OutcomeUnknown, Refused):
        return None
