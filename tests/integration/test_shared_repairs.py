"""Parked events are handled again in order, once, whatever is killed, and a rehearsal changes nothing."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncpg import Pool
from prometheus_client import REGISTRY

from contracts.orders import OrderConfirmed
from shared import postgres
from shared.delivery import figures, inspection, outbox, parking, rehearsal, repairs
from shared.delivery.events import Record
from shared.delivery.handlers import Handlers
from shared.delivery.handling import Handling
from shared.delivery.parking import Parked
from shared.delivery.repairs import Author, Repairs, Selection
from shared.errors import NotFound
from shared.postgres import Connection, connections
from tests.builders import eventually, id_at, order_confirmed, record, with_header
from tests.conftest import create_table

WHO = Author("1", "the bug is mended")
ALL = Selection()


class Service:
    """A service with a bug at some orders. Its effect is a row and an event for each event."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.broken = pool, set[int]()
        self.before: Callable[[Any], None] = lambda event: None
        self.start()

    def start(self) -> None:
        """Start again, as after a crash or with the next release."""
        self.handling = Handling(self.pool, "test", {OrderConfirmed: self.handle})
        self.repairs = Repairs(self.pool, self.handling)

    async def handle(self, conn: Connection, events: list[OrderConfirmed]) -> None:
        for event in events:
            self.before(event)
            if event.order_id in self.broken:
                raise LookupError(f"a bug at {event.order_id}")
        await conn.executemany("insert into effects values ($1, $2)", [(e.order_id, e.version) for e in events])
        await outbox.append(conn, events)

    async def deliver(self, *records: Record) -> None:
        left = list(records)
        for _ in range(10):
            if not (left := await self.handling.handle(left)):
                return
        raise AssertionError("never done")

    async def ask(self, action: repairs.Action = "replay", wanted: Selection = ALL, per_second: int = 1000) -> int:
        async with postgres.transaction(self.pool) as conn:
            ids = await repairs.choose(conn, "test", wanted, action)
            return await repairs.request(conn, action, WHO, {}, ids, per_second)

    async def repair(self, action: repairs.Action = "replay", wanted: Selection = ALL) -> str:
        await self.ask(action, wanted)
        assert await self.repairs.run_once(asyncio.Event())
        outcome: str = await self.pool.fetchval("select outcome from repairs order by id desc limit 1")
        return outcome

    async def effects(self) -> list[tuple[int, int]]:
        return [tuple(row) for row in await self.pool.fetch("select id, version from effects order by n")]

    async def parked(self) -> list[str]:
        return [row[0] for row in await self.pool.fetch("select key from parked where resolved_at is null order by id")]


@pytest.fixture
async def service(pool: Pool, owner: Pool) -> Service:
    await create_table(owner, "effects (id bigint, version int, n serial)")
    return Service(pool)


def confirmed(order_id: int, version: int = 2) -> Record:
    return record(order_confirmed(order_id, version))


async def park(service: Service, *keys: int) -> None:
    """Two events of each key: the first one fails, the second one waits behind it."""
    service.broken = set(keys)
    for key in keys:
        await service.deliver(confirmed(key, 2), confirmed(90 + key), confirmed(key, 3))
    service.broken = set()
    assert await service.parked() == [str(key) for key in keys for _ in range(2)]


async def test_a_replay_handles_the_events_of_a_key_in_their_order(service: Service) -> None:
    await park(service, 1, 2)
    before = await service.effects()
    assert await service.repair() == "4 handled"
    assert (await service.effects())[len(before) :] == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert await service.parked() == []
    await service.deliver(confirmed(1, 4))
    assert (await service.effects())[-1] == (1, 4)


async def test_a_replay_that_is_repeated_changes_nothing(service: Service) -> None:
    await park(service, 1)
    first = await service.ask()
    second = await service.ask()
    for _ in range(2):
        await service.repairs.run_once(asyncio.Event())
    outcomes = dict(await service.pool.fetch("select id, outcome from repairs"))
    assert outcomes == {first: "2 handled", second: "2 resolved before"}
    assert (await service.effects()).count((1, 2)) == 1
    assert await service.repair() == "nothing to do"


async def test_an_event_that_fails_again_stays_parked_with_those_behind_it(service: Service) -> None:
    await park(service, 1, 2)
    service.broken = {1}
    assert await service.repair() == "1 behind, 1 failed, 2 handled"
    assert await service.parked() == ["1", "1"]
    row = await service.pool.fetchrow("select attempts, error from parked where resolved_at is null order by id")
    assert tuple(row) == (4, "LookupError('a bug at 1')")
    async with service.pool.acquire() as conn:
        assert [one["outcome"] for one in await repairs.details(conn, 1)] == ["failed", "behind"]
    await service.deliver(confirmed(1, 4))
    assert await service.parked() == ["1", "1", "1"]
    service.broken = set()
    assert await service.repair() == "3 handled"
    assert [version for id_, version in await service.effects() if id_ == 1] == [2, 3, 4]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Selection(key="1"), ["1", "1"]),
        (Selection(type="OrderConfirmed"), ["1", "1", "2", "2"]),
        (Selection(type="OrderCreated"), []),
        (Selection(error="a bug at 2"), ["2", "2"]),
        (Selection(error="a bug at 2%"), []),
        (Selection(ids=[1]), ["1", "1"]),
        (Selection(ids=[2]), ["1"]),
        (Selection(key="1", error="a bug at 2"), []),
    ],
)
async def test_a_replay_takes_what_was_selected_and_what_waits_behind_it(
    service: Service, wanted: Selection, chosen: list[str]
) -> None:
    await park(service, 1, 2)
    async with service.pool.acquire() as conn:
        ids = await repairs.choose(conn, "test", wanted, "replay")
    assert [row["key"] for row in await service.pool.fetch("select key from parked where id = any($1)", ids)] == chosen


async def test_the_selection_is_frozen_when_the_repair_is_asked_for(service: Service) -> None:
    await park(service, 1)
    await service.ask()
    service.broken = {2}
    await service.deliver(confirmed(2))
    await service.repairs.run_once(asyncio.Event())
    assert await service.parked() == ["2"]


async def test_dropping_the_first_event_leaves_those_behind_it_parked(service: Service) -> None:
    await park(service, 1)
    assert await service.repair("drop", Selection(ids=[1])) == "1 dropped"
    assert await service.parked() == ["1"]
    assert await service.pool.fetchval("select resolution from parked where id = 1") == "dropped"
    assert await service.repair() == "1 handled"
    assert [version for id_, version in await service.effects() if id_ == 1] == [3]


async def test_a_replay_that_is_killed_goes_on_in_the_next_process(service: Service) -> None:
    await park(service, 1, 2, 3)

    def die(event: Any) -> None:
        if event.order_id == 2:
            raise asyncio.CancelledError  # as if the process died here

    service.before = die
    await service.ask()
    with pytest.raises(asyncio.CancelledError):
        await service.repairs.run_once(asyncio.Event())
    service.before = lambda event: None
    service.start()
    assert await service.repairs.run_once(asyncio.Event())
    assert await service.pool.fetchval("select outcome from repairs") == "6 handled"
    assert sorted(row for row in await service.effects() if row[0] < 90) == [(n, v) for n in (1, 2, 3) for v in (2, 3)]


async def test_two_processes_do_not_do_the_same_repair(service: Service) -> None:
    await park(service, 1, 2, 3)
    await service.ask(per_second=5)
    others = [Repairs(service.pool, service.handling) for _ in range(3)]
    done = await asyncio.gather(*(one.run_once(asyncio.Event()) for one in others))
    assert sorted(done) == [False, False, True]


async def test_a_repair_whose_process_is_gone_is_taken_over_when_its_lease_is_over(service: Service) -> None:
    await park(service, 1)
    await service.ask()
    await service.pool.execute("update repairs set lease_until = now() + interval '1 hour'")
    assert not await service.repairs.run_once(asyncio.Event())
    await service.pool.execute("update repairs set lease_until = now() - interval '1 second'")
    assert await service.repairs.run_once(asyncio.Event())


async def test_a_repair_waits_while_postgres_fails_and_parks_nothing_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await park(service, 1)
    real, calls = Handlers.handle, []

    async def failing(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("Postgres is down")
        await real(*arguments)

    monkeypatch.setattr(Handlers, "handle", failing)
    await service.ask()
    stop = asyncio.Event()
    running = asyncio.create_task(service.repairs.run(stop))
    await eventually(lambda: service.pool.fetchval("select outcome from repairs"))
    stop.set()
    await running
    assert await service.pool.fetchval("select outcome from repairs") == "2 handled"


async def test_an_event_that_comes_during_a_replay_of_its_key_is_handled_after_the_others(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resolving takes the lock of the key. Without it, the event is parked behind events that are done."""
    await park(service, 1)
    await service.ask()
    real, is_parking, go = parking.park, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> list[Parked]:
        is_parking.set()
        await go.wait()
        return await real(*arguments)

    monkeypatch.setattr(parking, "park", slow)
    arriving = asyncio.create_task(service.deliver(confirmed(1, 4)))
    await is_parking.wait()
    replaying = asyncio.create_task(service.repairs.run_once(asyncio.Event()))

    async def is_waiting() -> bool:
        return replaying.done() or await service.pool.fetchval("select exists (select from pg_locks where not granted)")

    await eventually(is_waiting)
    go.set()
    await asyncio.gather(arriving, replaying)
    assert await service.parked() == []
    assert [version for id_, version in await service.effects() if id_ == 1] == [2, 3, 4]
    assert await service.pool.fetchval("select outcome from repairs") == "3 handled"


async def test_an_event_of_an_unknown_type_is_handled_by_the_next_release(service: Service) -> None:
    event = confirmed(1)
    service.handling = Handling(service.pool, "test", {})
    await service.deliver(event)
    assert await service.parked() == ["1"]
    assert not await service.pool.fetchval("select blocks from parked")
    service.start()
    await service.deliver(event._replace(offset=10_000))  # published again: the parked one is the only one that counts
    assert await service.effects() == []
    assert await service.repair(wanted=Selection(error="unknown_type")) == "1 handled"
    assert await service.effects() == [(1, 2)]
    await service.deliver(event._replace(offset=10_001))
    assert await service.effects() == [(1, 2)]


async def test_an_undecodable_event_that_was_handled_elsewhere_is_resolved_as_a_duplicate(service: Service) -> None:
    event = confirmed(1)
    await service.deliver(event._replace(key=b"another"))
    await service.pool.execute("update parked set raw_key = '1', key = '1'")  # as if the next release accepts it
    await service.deliver(event._replace(offset=10_000))
    assert await service.repair() == "1 duplicate"
    assert await service.effects() == [(1, 2)]


async def test_a_record_that_still_cannot_be_read_stays_parked(service: Service) -> None:
    await service.deliver(confirmed(1)._replace(value=b"{"))
    assert await service.repair() == "1 failed"
    assert await service.parked() == ["1"]


async def test_an_event_that_is_older_than_the_inbox_is_never_handled_by_a_replay(service: Service) -> None:
    old = confirmed(1)
    await service.deliver(with_header(old, "ce_id", b"01800000-0000-7000-8000-000000000001"))
    assert await service.parked() == ["1"]
    assert await service.repair() == "1 failed"
    assert await service.effects() == []


async def test_a_parked_event_may_be_replayed_after_its_inbox_row_is_gone(service: Service) -> None:
    old = datetime.now(UTC) - timedelta(days=30)
    event_id = id_at(old)
    given = with_header(confirmed(1), "ce_id", str(event_id).encode())
    async with postgres.transaction(service.pool) as conn:
        row = Parked(given, "a bug", 3, blocks=True, event_id=event_id)
        await parking.park(conn, "test", [row])
    await service.pool.execute("update parked set parked_at = $1", old)
    assert await service.repair() == "1 handled"


async def test_a_record_that_was_parked_is_the_same_when_it_is_read_back(service: Service) -> None:
    given = confirmed(1)._replace(value=b"\x00\xff", headers=[("ce_type", b"OrderConfirmed"), ("bytes", b"\x00\xfe")])
    await service.deliver(given)
    row = await service.pool.fetchrow("select * from parked")
    assert parking.record_of(row) == given


async def test_a_rehearsal_shows_rows_and_events_and_changes_nothing(service: Service) -> None:
    await park(service, 1, 2)
    before = await service.effects()
    events = await service.pool.fetchval("select count(*) from outbox")
    found = await rehearsal.rehearse(service.pool, service.handling, [1, 2, 3, 4])
    assert [(one.key, one.outcome) for one in found] == [("1", "handled")] * 2 + [("2", "handled")] * 2
    assert found[0].changes == {"effects": "1 inserted"}
    assert [(row["id"], row["version"]) for row in found[1].rows["effects"]] == [(1, 2), (1, 3)]
    assert [(event["type"], event["key"]) for event in found[1].events] == [("OrderConfirmed", "1")]
    assert '"version":3' in found[1].events[0]["value"]
    assert await service.effects() == before
    assert await service.pool.fetchval("select count(*) from outbox") == events
    assert len(await service.parked()) == 4


async def test_a_rehearsal_shows_the_error_and_what_waits(service: Service) -> None:
    await park(service, 1, 2)
    service.broken = {1}
    found = await rehearsal.rehearse(service.pool, service.handling, [1, 2, 4])
    assert [(one.parked_id, one.outcome) for one in found] == [(1, "failed"), (4, "behind")]
    assert found[0].detail == "LookupError('a bug at 1')"
    assert found[1].detail == "waits behind the parked event 3"


async def test_publishing_again_moves_each_cursor_back_to_a_time(pool: Pool, owner: Pool) -> None:
    for n in range(8):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_confirmed(n + 1)])
    await owner.execute("update outbox set occurred_at = now() - interval '1 hour' where key::int <= 4")
    await pool.execute(
        "update outbox_lanes set xid = pg_snapshot_xmax(pg_current_snapshot()), id = 10 ^ 9, owner = 'x'"
    )
    async with postgres.transaction(pool) as conn:
        since = await conn.fetchval("select (now() - interval '30 minutes')::text || ':00'")
        await repairs.request(conn, "republish", WHO, {"since": since.replace(" ", "T")})
    assert await Repairs(pool).run_once(asyncio.Event())
    async with pool.acquire() as conn:
        assert sum(lane["rows"] for lane in await inspection.lanes(conn)) == 4
    lanes = await pool.fetch("select owner, epoch from outbox_lanes")
    assert {tuple(row) for row in lanes} == {(None, 1)}


async def test_a_restored_outbox_continues_with_what_was_not_published(pool: Pool, owner: Pool) -> None:
    for n in range(6):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_confirmed(n + 1)])
    await owner.execute(
        "update outbox_lanes l set xid = o.xid, id = o.id, system_identifier = 1 from "
        "(select distinct on (lane) lane, xid, id from outbox where key::int <= 3 order by lane, xid desc, id desc) o "
        "where o.lane = l.lane"
    )
    await owner.execute("update outbox set xid = (xid::text::bigint + 10 ^ 9)::bigint::text::xid8")  # another cluster's
    await pool.execute("update outbox_lanes set xid = (xid::text::bigint + 10 ^ 9)::bigint::text::xid8 where id > 0")
    await owner.execute("update outbox_lanes set system_identifier = 1")
    async with postgres.transaction(pool) as conn:
        await repairs.request(conn, "rebase", WHO, {"since": "2100-01-01T00:00:00+00:00"})
    assert await Repairs(pool).run_once(asyncio.Event())
    assert await pool.fetchval("select outcome from repairs") == "3 rows are published next"
    keys = await pool.fetch(
        "select key from outbox o join outbox_lanes l using (lane) where (o.xid, o.id) > (l.xid, l.id) order by o.id"
    )
    assert [row["key"] for row in keys] == ["4", "5", "6"]
    here = await pool.fetchval("select system_identifier from pg_control_system()")
    assert await pool.fetchval("select distinct system_identifier from outbox_lanes") == here


async def test_a_restored_outbox_also_publishes_again_what_was_written_since_a_time(pool: Pool, owner: Pool) -> None:
    for n in range(6):
        async with postgres.transaction(pool) as conn:
            await outbox.append(conn, [order_confirmed(1, n + 1)])
    await owner.execute("update outbox set occurred_at = now() - interval '2 hours' where id <= 2")
    await owner.execute(
        "update outbox_lanes l set xid = o.xid, id = o.id from outbox o where o.lane = l.lane and o.id = 4"
    )
    await owner.execute("update outbox_lanes set system_identifier = 1, owner = 'x'")
    async with owner.acquire() as conn, conn.transaction():
        await connections._prepare(conn)
        now = await conn.fetchval("select clock_timestamp()")
        outcome = await repairs.resume_restored(conn, WHO, now, now - timedelta(hours=1))
    assert outcome == "2 rows were not published, 4 lanes moved back"
    waiting = await pool.fetch(
        "select convert_from(value, 'UTF8')::jsonb ->> 'version' as version "
        "from outbox o join outbox_lanes l using (lane) where (o.xid, o.id) > (l.xid, l.id) order by o.xid, o.id"
    )
    assert [row["version"] for row in waiting] == ["3", "4", "5", "6"]
    assert await pool.fetchval("select outcome from repairs where ended_at is not null") == outcome
    assert not await Repairs(pool).run_once(asyncio.Event())


async def test_a_repair_that_does_not_exist_is_not_found(pool: Pool) -> None:
    async with pool.acquire() as conn:
        assert await repairs.progress(conn, 1) == []
        with pytest.raises(NotFound):
            await inspection.parked_one(conn, 1)


async def test_the_figures_of_the_database_become_metrics(service: Service) -> None:
    await figures.run_once(service.pool, "test")
    assert [read_metric(name) for name in ("parked_events", "parked_keys", "parked_oldest_seconds")] == [0, 0, 0]
    await park(service, 1, 2)
    await service.pool.execute("update parked set parked_at = now() - interval '1 hour'")
    await service.pool.execute("update outbox_lanes set xid = '0', id = 0")
    await figures.run_once(service.pool, "test")
    assert [read_metric(name) for name in ("parked_events", "parked_keys")] == [4, 2]
    assert read_metric("parked_oldest_seconds") >= 3600
    rows, size = await service.pool.fetchrow("select count(*), sum(octet_length(value)) from outbox")
    assert (read_metric("outbox_unpublished_rows"), read_metric("outbox_unpublished_bytes")) == (rows, size)
    assert read_metric("consumer_retries_total", type="OrderConfirmed") >= 6
    await figures.run_once(service.pool, "another")
    assert read_metric("parked_events") == 0


def read_metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_repair_that_can_never_be_done_ends_and_the_next_one_follows(pool: Pool) -> None:
    async with postgres.transaction(pool) as conn:
        await repairs.request(conn, "republish", WHO, {"since": "0001-01-01T00:00:00+14:00"})
        await repairs.request(conn, "republish", WHO, {"since": "2026-01-01T00:00:00+00:00"})
    for _ in range(2):
        assert await Repairs(pool).run_once(asyncio.Event())
    first, second = [row[0] for row in await pool.fetch("select outcome from repairs order by id")]
    assert first.startswith("failed: ")
    assert second == "0 lanes moved back"
