"""An event that ends its process is found and parked. A kill at any other moment parks nothing."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from asyncpg import Pool

from contracts.orders import OrderConfirmed
from shared.delivery import crashes
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from shared.postgres import Connection
from tests.builders import order_confirmed, record
from tests.conftest import ROOT, Database, create_table

POISON = 7


class Killed(BaseException):
    """The process died here."""


class Service:
    """One process after another of the same service. Its effect is a row for each event."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.dies = pool, True
        self.starts = 0
        self.alone: list[int] = []
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.handling = Handling(self.pool, "test", {OrderConfirmed: self.handle})

    async def handle(self, conn: Connection, events: list[OrderConfirmed]) -> None:
        if self.dies and any(event.order_id == POISON for event in events):
            raise Killed
        self.alone += [event.order_id for event in events if len(events) == 1]
        await conn.executemany("insert into effects values ($1)", [(event.order_id,) for event in events])

    async def deliver(self, records: list[Record], processes: int = 20) -> None:
        """Deliver as Kafka does: the next process gets the same records again."""
        for _ in range(processes):
            try:
                while left := await self.handling.handle(records):
                    records = left
            except Killed:
                self.start()
            else:
                return
        raise AssertionError("never done")

    async def effects(self) -> list[int]:
        return [row[0] for row in await self.pool.fetch("select id from effects order by id")]

    async def parked(self) -> list[tuple[str, int, bool, str]]:
        rows = await self.pool.fetch("select key, attempts, blocks, error from parked order by id")
        return [tuple(row) for row in rows]


@pytest.fixture
async def service(pool: Pool, owner: Pool) -> Service:
    await create_table(owner, "effects (id bigint)")
    return Service(pool)


def records(*order_ids: int, first: int = 100) -> list[Record]:
    return [record(order_confirmed(id_), offset=first + n) for n, id_ in enumerate(order_ids)]


async def test_an_event_that_kills_its_process_is_parked_after_three_deaths_alone(service: Service) -> None:
    await service.deliver(records(*range(1, 11)))
    [(key, attempts, blocks, error)] = await service.parked()
    assert (key, attempts, blocks) == ("7", 3, True)
    assert "died 3 times" in error
    assert await service.effects() == [n for n in range(1, 11) if n != POISON]
    assert service.starts == 1 + crashes.CAREFUL_AFTER + crashes.MAX_CRASHES


async def test_later_events_of_its_key_wait_behind_it_and_other_partitions_do_not(service: Service) -> None:
    await service.deliver([*records(POISON, 8), record(order_confirmed(9), partition=1, offset=5)])
    await service.deliver(records(POISON, first=200))
    assert [row[:3] for row in await service.parked()] == [("7", 3, True), ("7", 0, True)]
    assert await service.effects() == [8, 9]


async def test_kills_without_an_event_alone_park_nothing(service: Service) -> None:
    for _ in range(12):
        with pytest.raises(Killed):
            await service.handling.handle(records(POISON, 1) if service.starts < 2 else records(1, POISON, first=300))
        service.start()
        await service.pool.execute("update consumer_starts set crashes = 0")  # as if there was progress each time
    service.dies = False
    await service.deliver(records(POISON, 1))
    assert await service.parked() == []
    assert await service.effects() == [1, POISON]


async def test_progress_between_two_deaths_starts_the_count_again(service: Service) -> None:
    for n in range(6):
        with pytest.raises(Killed):
            await service.handling.handle(records(POISON, first=100 + n))
        service.start()
    assert await service.pool.fetchval("select crashes from consumer_starts") == 1


async def test_a_process_that_ends_cleanly_does_not_count(service: Service) -> None:
    service.dies = False
    for _ in range(5):
        await service.handling.handle(records(1))
        await service.handling.release()
        service.start()
    assert await service.pool.fetchval("select crashes from consumer_starts") == 0


async def test_an_event_that_fails_while_it_is_alone_is_not_counted_as_a_death(service: Service, owner: Pool) -> None:
    await service.pool.execute(
        "insert into consumer_starts (consumer, topic, partition, owner, first_offset, crashes) "
        "values ('test', 'orders.events', 0, 'dead', 100, 5)"
    )
    await owner.execute("alter table effects add constraint bug check (id <> 3)")
    await service.deliver(records(*range(1, 6)))
    [(key, _, blocks, error)] = await service.parked()
    assert (key, blocks) == ("3", True)
    assert "CheckViolation" in error
    assert await service.pool.fetchval("select coalesce(suspicions, 0) from consumer_starts") <= 1


async def test_an_error_of_postgres_clears_the_count(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    suspect = records(POISON)
    for _ in range(crashes.CAREFUL_AFTER + crashes.MAX_CRASHES):
        with pytest.raises(Killed):
            await service.handling.handle(suspect)
        service.start()
    assert await service.pool.fetchval("select suspicions from consumer_starts") == crashes.MAX_CRASHES
    await service.pool.execute("update consumer_starts set suspicions = 2")

    async def failing(*_: object) -> None:
        raise ConnectionError("Postgres is down")

    with monkeypatch.context() as patch:
        patch.setattr(service.handling, "_attempt", failing)
        with pytest.raises(ConnectionError):
            await service.handling.handle(suspect)
    assert await service.pool.fetchval("select suspicions from consumer_starts") == 0
    assert await service.parked() == []


async def test_care_ends_after_some_events(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes, "CAREFUL_EVENTS", 5)
    await service.pool.execute(
        "insert into consumer_starts (consumer, topic, partition, owner, first_offset, crashes) "
        "values ('test', 'orders.events', 0, 'dead', 100, 5)"
    )
    await service.deliver(records(*range(11, 31)))
    assert service.alone == [11, 12, 13, 14, 15]
    assert len(await service.effects()) == 20
    assert await service.pool.fetchval("select crashes from consumer_starts") == 0


async def test_events_that_are_done_are_not_marked(service: Service) -> None:
    service.dies = False
    done = records(*range(1, 4))
    await service.deliver(done)
    service.start()
    await service.pool.execute("update consumer_starts set crashes = 5")
    await service.deliver(done)
    assert await service.pool.fetchval("select suspect from consumer_starts") is None


PROCESS = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[2])
from contracts.orders import OrderConfirmed
from shared import postgres
from shared.delivery.events import Record
from shared.delivery.handling import Handling

async def handle(conn, events):
    if any(event.order_id == 7 for event in events):
        os.kill(os.getpid(), signal.SIGKILL)
    await conn.executemany("insert into effects values ($1)", [(event.order_id,) for event in events])

async def main():
    records = eval(sys.stdin.read())
    async with postgres.pool(sys.argv[1], size=2, name="test") as pool:
        while records:
            records = await Handling(pool, "test", {OrderConfirmed: handle}).handle(records)

asyncio.run(main())
"""


async def test_real_processes_that_kill_themselves_are_counted(
    pool: Pool, database: Database, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    given = repr(records(*range(1, 11))).encode()
    codes = []
    while 0 not in codes and len(codes) < 10:
        command = [sys.executable, str(tmp_path / "process.py"), database.url_for("orders"), str(ROOT)]
        child = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE)
        await child.communicate(given)
        codes.append(child.returncode)
    assert codes == [-signal.SIGKILL] * (crashes.CAREFUL_AFTER + crashes.MAX_CRASHES) + [0]
    assert [row[:3] for row in await service.parked()] == [("7", 3, True)]
    assert await service.effects() == [n for n in range(1, 11) if n != POISON]
