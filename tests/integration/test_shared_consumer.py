"""A consumer handles records once, together with their effects, in order of each key, and never gets stuck."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from asyncpg import Pool
from prometheus_client import REGISTRY
from uuid_utils.compat import uuid7

from contracts.orders import OrderConfirmed, OrderCreated
from contracts.products import ProductChanged
from shared import postgres
from shared.delivery import inbox, outbox, parking, sifting
from shared.delivery.breaker import MAX_ATTEMPTS
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from shared.delivery.parking import Parked
from shared.delivery.sifting import Turn
from shared.errors import UnknownAggregate
from shared.postgres import Connection
from tests.builders import eventually, order_confirmed, order_created, record
from tests.conftest import create_table

EFFECTS = "effects (n serial, order_id bigint, version int)"

Break = Callable[[Any], None]


class Ledger:
    """A service whose effect is one row for each event; it publishes one event for each row."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[tuple[int, int]]]] = []
        self.break_: Break = lambda event: None

    async def write(self, conn: Connection, given: list[Any]) -> None:
        self.calls.append((type(given[0]).__name__, [(e.order_id, e.version) for e in given]))
        for event in given:
            self.break_(event)
        rows = [(e.order_id, e.version) for e in given]
        await conn.executemany("insert into effects (order_id, version) values ($1, $2)", rows)
        await outbox.append(conn, [order_confirmed(order_id, version) for order_id, version in rows])


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def handling(pool: Pool, owner: Pool, ledger: Ledger) -> Handling:
    await create_table(owner, EFFECTS)
    return Handling(pool, "ledger", {OrderCreated: ledger.write, OrderConfirmed: ledger.write})


def fail_for(*order_ids: int, error: Exception | None = None) -> Break:
    def check(event: Any) -> None:
        if event.order_id in order_ids:
            raise error or LookupError(f"cannot handle {event.order_id}")

    return check


async def handle_to_the_end(handling: Handling, records: Sequence[Record]) -> int:
    """Retry as the consumer does; return the number of attempts."""
    for attempt in range(1, 10):
        records = await handling.handle(records)
        if not records:
            return attempt
    raise AssertionError("never done")


async def effects(pool: Pool) -> list[tuple[int, int]]:
    return [tuple(row) for row in await pool.fetch("select order_id, version from effects order by n")]


async def parked(pool: Pool) -> list[tuple[str, int, bool]]:
    rows = await pool.fetch("select key, attempts, blocks from parked order by id")
    return [tuple(row) for row in rows]


async def dead_letters(pool: Pool) -> int:
    return await pool.fetchval("select count(*) from outbox where topic like '%.dlq'")


def created(*versions: tuple[int, int]) -> list[Record]:
    return [record(order_created(order_id, version=version)) for order_id, version in versions]


async def test_effects_inbox_rows_and_events_are_committed_together(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    await handling.handle(created((1, 1), (2, 1), (1, 2)))

    counts = "select count(*), (select count(*) from inbox), (select count(distinct xid) from outbox) from outbox"
    assert sorted(await effects(pool)) == [(1, 1), (1, 2), (2, 1)]
    assert tuple(await pool.fetchrow(counts)) == (3, 3, 1)


async def test_nothing_is_committed_when_the_transaction_fails(pool: Pool, ledger: Ledger, handling: Handling) -> None:
    ledger.break_ = fail_for(2, error=asyncpg.DeadlockDetectedError("deadlock detected"))
    with pytest.raises(asyncpg.DeadlockDetectedError):
        await handling.handle(created((1, 1), (2, 1)))

    for table in ("effects", "inbox", "outbox", "parked"):
        assert await pool.fetchval(f"select count(*) from {table}") == 0


async def test_an_event_delivered_again_has_no_effect(pool: Pool, handling: Handling) -> None:
    records = created((1, 1), (2, 1))
    for batch in (records, records, records[:1], records[::-1]):
        await handling.handle(batch)

    assert await effects(pool) == [(1, 1), (2, 1)]


async def test_without_its_inbox_row_a_repeated_event_has_an_effect(pool: Pool, handling: Handling) -> None:
    records = created((1, 1))
    await handling.handle(records)
    await pool.execute("delete from inbox")
    await handling.handle(records)

    assert len(await effects(pool)) == 2


async def test_an_event_twice_in_a_batch_is_handled_once_at_its_first_position(pool: Pool, handling: Handling) -> None:
    first, second = created((1, 1), (1, 2))
    await handling.handle([first, second, first._replace(offset=99)])

    assert await effects(pool) == [(1, 1), (1, 2)]


async def test_another_consumer_of_the_same_service_has_its_own_inbox(pool: Pool, owner: Pool, ledger: Ledger) -> None:
    await create_table(owner, EFFECTS)
    records = created((1, 1))
    for name in ("a", "b"):
        await Handling(pool, name, {OrderCreated: ledger.write}).handle(records)

    assert len(await effects(pool)) == 2


async def test_two_members_with_the_same_records_at_once_have_each_effect_once(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    other = Handling(pool, "ledger", {OrderCreated: ledger.write})
    records = created(*[(order_id, 1) for order_id in range(1, 51)])
    await asyncio.gather(handling.handle(records), other.handle(records[::-1]))

    assert sorted(await effects(pool)) == [(order_id, 1) for order_id in range(1, 51)]


async def test_a_batch_is_handled_in_groups_of_one_type_that_keep_the_order_of_each_key(
    ledger: Ledger, handling: Handling
) -> None:
    await handling.handle(
        [
            record(order_created(1, version=1)),
            record(order_created(2, version=1)),
            record(order_confirmed(1, version=2)),
            record(order_confirmed(3, version=1)),
            record(order_created(1, version=3)),
        ]
    )

    assert ledger.calls == [
        ("OrderCreated", [(1, 1), (2, 1)]),
        ("OrderConfirmed", [(3, 1)]),
        ("OrderConfirmed", [(1, 2)]),
        ("OrderCreated", [(1, 3)]),
    ]


async def test_an_event_of_an_ignored_type_is_skipped_and_one_of_an_unknown_type_is_parked_and_blocks_nothing(
    pool: Pool, owner: Pool, ledger: Ledger
) -> None:
    await create_table(owner, EFFECTS)
    handling = Handling(pool, "ledger", {OrderCreated: ledger.write}, ignores=[ProductChanged])
    changed = ProductChanged(version=1, product_id=1, sku="1", name="X", price_cents=1, currency="EUR", active=True)
    await handling.handle([record(changed), record(order_confirmed(1, 1)), *created((1, 2))])

    assert await effects(pool) == [(1, 2)]
    assert await pool.fetch("select error, blocks from parked") == [("unknown_type: OrderConfirmed", False)]


async def test_events_that_follow_from_an_event_carry_its_trace(pool: Pool, handling: Handling) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced, plain = created((1, 1), (2, 1))
    await handling.handle([traced._replace(headers=[*traced.headers, ("traceparent", trace.encode())]), plain])

    heads = dict(await pool.fetch("select key, convert_from(head, 'UTF8') from outbox"))
    assert heads["1"].endswith(trace)
    assert not heads["2"].endswith(trace)


# Bad records: each is made from a good one, and is handled between two good ones.


def with_value(value: bytes | None) -> Callable[[Record], Record]:
    return lambda good: good._replace(value=value)


def with_field(name: str, value: object) -> Callable[[Record], Record]:
    def change(good: Record) -> Record:
        return good._replace(value=orjson.dumps(orjson.loads(good.value or b"") | {name: value}))

    return change


def with_raw_field(name: str, raw: bytes) -> Callable[[Record], Record]:
    def change(good: Record) -> Record:
        fields = orjson.loads(good.value or b"") | {name: "@"}
        return good._replace(value=orjson.dumps(fields).replace(b'"@"', raw))

    return change


def without_field(name: str) -> Callable[[Record], Record]:
    def change(good: Record) -> Record:
        fields = orjson.loads(good.value or b"")
        del fields[name]
        return good._replace(value=orjson.dumps(fields))

    return change


def with_header(name: str, value: bytes | None) -> Callable[[Record], Record]:
    def change(good: Record) -> Record:
        return good._replace(headers=[(n, value if n == name else v) for n, v in good.headers])  # type: ignore[misc]

    return change


def without_header(name: str) -> Callable[[Record], Record]:
    return lambda good: good._replace(headers=[(n, v) for n, v in good.headers if n != name])


def with_id(event_id: UUID) -> Callable[[Record], Record]:
    return with_header("ce_id", str(event_id).encode())


def id_of(moment: datetime) -> UUID:
    made = uuid7()
    return UUID(int=int(moment.timestamp() * 1000) << 80 | made.int & (1 << 80) - 1)


NOW = datetime.now(UTC)

BAD: dict[str, Callable[[Record], Record]] = {
    "null key": lambda good: good._replace(key=None),
    "empty key": lambda good: good._replace(key=b""),
    "wrong key": lambda good: good._replace(key=b"4711"),
    "key of NUL": lambda good: good._replace(key=b"\x00"),
    "key of a megabyte of NUL": lambda good: good._replace(key=b"\x00" * 1_000_000),
    "key that is no UTF-8": lambda good: good._replace(key=b"\xff\xfe"),
    "null value": with_value(None),
    "empty value": with_value(b""),
    "not JSON": with_value(b"hello"),
    "JSON null": with_value(b"null"),
    "JSON list": with_value(b"[]"),
    "JSON scalar": with_value(b"1"),
    "truncated": lambda good: good._replace(value=(good.value or b"")[:-3]),
    "trailing garbage": lambda good: good._replace(value=(good.value or b"") + b"}"),
    "byte order mark": lambda good: good._replace(value=b"\xef\xbb\xbf" + (good.value or b"")),
    "UTF-16": lambda good: good._replace(value=(good.value or b"").decode().encode("utf-16")),
    "invalid UTF-8": with_raw_field("note", b'"\xff"'),
    "depth 100,000": with_raw_field("product", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "missing field": without_field("order_id"),
    "missing version": without_field("version"),
    "no fields": with_value(b"{}"),
    "number as text": with_field("quantity", "2"),
    "fraction": with_field("quantity", 1.5),
    "boolean as number": with_field("quantity", True),
    "zero": with_field("quantity", 0),
    "negative": with_field("quantity", -1),
    "2^31": with_field("quantity", 2**31),
    "2^63": with_raw_field("order_id", str(2**63).encode()),
    "5,000 digits": with_raw_field("order_id", b"9" * 5000),
    "NaN": with_raw_field("amount_cents", b"NaN"),
    "Infinity": with_raw_field("amount_cents", b"Infinity"),
    "1e999": with_raw_field("amount_cents", b"1e999"),
    "NUL in text": with_field("note", "a\x00b"),
    "lone surrogate": with_raw_field("note", b'"\\ud800"'),
    "not a time": with_field("expires_at", "tomorrow"),
    "a megabyte of nothing": with_value(b" " * 1_000_000),
    "a megabyte of NUL": with_value(b"\x00" * 1_000_000),
    "a megabyte of invalid UTF-8": with_value(b"\xff" * 1_000_000),
    "no headers": lambda good: good._replace(headers=[]),
    "no ce_id": without_header("ce_id"),
    "null ce_id": with_header("ce_id", None),
    "ce_id that is none": with_header("ce_id", b"1"),
    "ce_id that is no ASCII": with_header("ce_id", b"\xff" * 16),
    "no ce_type": without_header("ce_type"),
    "null ce_type": with_header("ce_type", None),
    "id that is not v7": with_id(uuid4()),
    "id from last year": with_id(id_of(NOW - timedelta(days=365))),
    "id that was forgotten": with_id(id_of(NOW - inbox.RETENTION - timedelta(hours=1))),
    "id from the future": with_id(id_of(NOW + timedelta(days=2))),
    "nil id": with_id(UUID(int=0)),
}


async def test_a_bad_record_of_every_kind_is_parked_alone(pool: Pool, owner: Pool, handling: Handling) -> None:
    wrong = {}
    for kind, spoil in BAD.items():
        before, good, after = created((1, 1), (1, 2), (1, 3))
        bad = spoil(good)
        try:
            await handling.handle([before, bad, after])
        except Exception as error:  # noqa: BLE001  # all kinds are checked
            wrong[kind] = repr(error)[:200]
            continue
        rows = await pool.fetch('select attempts, blocks, raw_key, value, partition, "offset" from parked')
        if [tuple(row) for row in rows] != [(0, False, bad.key, bad.value, bad.partition, bad.offset)]:
            wrong[kind] = f"parked {len(rows)}"
        if await effects(pool) != [(1, 1), (1, 3)] or await dead_letters(pool) != 1:
            wrong[kind] = "effects or dead letter"
        await owner.execute("delete from parked; delete from effects; delete from outbox")
    assert wrong == {}


HARMLESS: dict[str, Callable[[Record], Record]] = {
    "unknown field": with_field("colour", "red"),
    "doubled key": with_raw_field("note", b'"a", "note": "b"'),
    "unknown type": with_header("ce_type", b"OrderTeleported"),
    "type of NUL": with_header("ce_type", b"\x00"),
    "type that is no UTF-8": with_header("ce_type", b"\xff"),
    "null traceparent": lambda good: good._replace(headers=[*good.headers, ("traceparent", None)]),  # type: ignore[list-item]
    "trace of NUL": lambda good: good._replace(headers=[*good.headers, ("traceparent", b"\x00" * 100_000)]),
    "trace that is no ASCII": lambda good: good._replace(headers=[*good.headers, ("traceparent", b"\xff" * 55)]),
    "doubled header": lambda good: good._replace(headers=good.headers * 2),
    "right to left": with_field("note", "\u202e\u0430<script>'; drop table orders; --\r\n"),
}


async def test_an_unusual_but_valid_record_is_not_parked(pool: Pool, handling: Handling) -> None:
    before, after = created((100, 1), (100, 2))
    strange = [change(created((n, 1))[0]) for n, change in enumerate(HARMLESS.values(), start=1)]
    await handling.handle([before, *strange, after])

    errors = [row["error"] for row in await pool.fetch("select error from parked")]
    assert [error.split(":")[0] for error in errors] == ["unknown_type"] * 3
    assert len(await effects(pool)) == len(HARMLESS) + 2 - 3


async def test_a_record_with_any_timestamp_can_be_parked(pool: Pool, handling: Handling) -> None:
    for timestamp_ms in (-(10**15), -(2**63), -1, 0, 2**62):
        (good,) = created((1, 1))
        await handling.handle([good._replace(value=None, timestamp_ms=timestamp_ms)])

    assert len(await parked(pool)) == 5


async def test_a_bad_record_of_any_kind_blocks_no_other_record(pool: Pool, handling: Handling) -> None:
    batch: list[Record] = []
    for n, spoil in enumerate(BAD.values(), start=1):
        good, to_spoil = created((n, 1), (n, 2))
        batch += [good, spoil(to_spoil)]
    await handling.handle(batch)

    assert len(await effects(pool)) == len(await parked(pool)) == await dead_letters(pool) == len(BAD)


async def test_a_record_that_arrives_again_is_parked_once(pool: Pool, handling: Handling) -> None:
    (good,) = created((1, 1))
    for _ in range(3):
        await handling.handle([good._replace(value=None)])

    assert len(await parked(pool)) == await dead_letters(pool) == 1


async def test_a_dead_letter_has_the_record_and_the_error(pool: Pool, handling: Handling) -> None:
    (good,) = created((1, 1))
    await handling.handle([good._replace(value=b"hello")])

    row = await pool.fetchrow("select topic, key, type, value from outbox")
    assert row is not None
    letter = orjson.loads(row["value"])
    assert (row["topic"], row["key"], row["type"]) == ("orders.events.dlq", "1", "DeadLetter")
    assert (letter["consumer"], letter["value"], letter["offset"]) == ("ledger", "hello", good.offset)
    assert "JSON" in letter["error"]


async def test_a_failing_event_is_parked_after_its_attempts_and_other_keys_are_handled(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    attempts = await handle_to_the_end(handling, created(*[(order_id, 1) for order_id in range(1, 9)]))

    assert attempts == MAX_ATTEMPTS
    assert sorted(await effects(pool)) == [(order_id, 1) for order_id in (1, 2, 4, 5, 6, 7, 8)]
    assert await parked(pool) == [("3", MAX_ATTEMPTS, True)]
    assert await dead_letters(pool) == 1


async def test_other_keys_are_handled_before_the_failing_key_is_parked(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    records = created((1, 1), (3, 1), (2, 1), (3, 2))
    assert await handling.handle(records) == [records[1], records[3]]

    assert sorted(await effects(pool)) == [(1, 1), (2, 1)]
    assert await parked(pool) == []


@pytest.mark.parametrize("error", [None, TimeoutError("another service"), asyncpg.DataError("a value")])
async def test_the_events_around_a_failing_one_commit_in_one_transaction(
    pool: Pool, ledger: Ledger, handling: Handling, error: Exception | None
) -> None:
    ledger.break_ = fail_for(3, 77, error=error)
    left = await handling.handle(created(*[(order_id, 1) for order_id in range(1, 101)]))

    assert sorted(r.key for r in left) == [b"3", b"77"]
    assert sorted(await effects(pool)) == [(n, 1) for n in range(1, 101) if n not in {3, 77}]
    assert await pool.fetchval("select count(distinct xmin::text) from inbox") == 1
    assert await pool.fetchval("select count(*) from inbox") == 98
    assert await pool.fetchval("select count(*) from outbox") == 98


async def test_an_event_that_failed_before_does_not_spoil_the_next_batch(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    left = await handling.handle(created((3, 1)))
    ledger.calls.clear()
    await handling.handle([*left, *created((1, 1), (2, 1), (4, 1), (5, 1))])

    assert ledger.calls == [("OrderCreated", [(1, 1), (2, 1), (4, 1), (5, 1)]), ("OrderCreated", [(3, 1)])]


async def test_the_event_in_the_hands_of_the_function_that_failed_is_tried_alone(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(70)
    await handling.handle(created(*[(order_id, 1) for order_id in range(1, 101)]))

    assert [len(calls) for _, calls in ledger.calls] == [100, 1, 99]


@pytest.mark.parametrize("spreads", [True, False])
async def test_an_innocent_event_in_hand_costs_one_more_attempt(
    pool: Pool, ledger: Ledger, handling: Handling, spreads: bool
) -> None:
    """The handler fails after its loop, with the last event in a variable, or with none."""

    async def write(conn: Connection, given: list[Any]) -> None:
        sizes.append(len(given))
        if spreads:
            for event in given:  # noqa: B007 - the variable keeps the last one
                pass
        if 3 in [e.order_id for e in given]:
            raise LookupError
        await ledger.write(conn, given)

    sizes: list[int] = []
    left = await Handling(pool, "ledger", {OrderCreated: write}).handle(created(*[(n, 1) for n in range(1, 17)]))

    assert [r.key for r in left] == [b"3"]
    assert await pool.fetchval("select count(distinct xmin::text) from inbox") == 1
    assert sizes[0] == 16  # without a savepoint: the batch is small
    assert sizes[1:] == ([16, 1, 15, 7, 3, 1, 2, 1, 1, 4, 8] if spreads else [16, 8, 4, 2, 2, 1, 1, 4, 8])
    assert len(await effects(pool)) == 15


async def test_an_undecodable_record_is_parked_in_the_transaction_of_its_batch(pool: Pool, handling: Handling) -> None:
    bad = record(order_created(9))._replace(value=b"hello", offset=10**6)
    await handling.handle([bad, *created((1, 1), (2, 1))])

    assert await parked(pool) == [("9", 0, False)]
    assert await dead_letters(pool) == 1
    assert await pool.fetchval("select count(distinct xid) from outbox") == 1


async def test_a_record_that_cannot_be_parked_with_its_batch_is_parked_alone(
    pool: Pool, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = parking.park, "select count(*) from inbox"

    async def failing(conn: Connection, consumer: str, rows: Sequence[Parked]) -> list[Parked]:
        if await conn.fetchval(count) > await pool.fetchval(count):
            raise asyncpg.DataError("a value that Postgres refuses")
        return await real(conn, consumer, rows)

    monkeypatch.setattr(parking, "park", failing)
    bad = record(order_created(9))._replace(value=b"hello", offset=10**6)
    assert await handling.handle([bad, *created((1, 1), (2, 1))]) == []

    assert await parked(pool) == [("9", 0, False)]
    assert sorted(await effects(pool)) == [(1, 1), (2, 1)]


async def test_a_held_event_is_not_tried_before_an_earlier_one_of_its_key(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    """The type of the first and the last is paused. The middle one did not fail, but it comes before the last."""
    first, middle, last = record(order_created(7)), record(order_confirmed(7, 2)), record(order_created(7, version=3))
    ledger.break_ = fail_for(7, error=asyncpg.UndefinedColumnError("a new column"))
    records = await handling.handle([first, middle, last])
    ledger.break_ = fail_for()
    assert await handling.handle(records) == []

    assert await effects(pool) == [(7, 1), (7, 2), (7, 3)]


async def test_a_long_sifting_ends_its_transaction_and_goes_on_in_the_next(
    pool: Pool, ledger: Ledger, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open transaction holds the outboxes back. Here no part but the first is tried before the time is over."""
    monkeypatch.setattr(sifting, "_MAX_SECONDS", 0.0)
    ledger.break_ = fail_for(3)
    left = await handling.handle(created(*[(order_id, 1) for order_id in range(1, 9)]))

    assert [r.key for r in left] == [b"3"]
    assert sorted(await effects(pool)) == [(n, 1) for n in (1, 2, 4, 5, 6, 7, 8)]
    assert await pool.fetchval("select count(distinct xmin::text) from inbox") > 1


async def test_an_event_that_fails_once_is_retried_and_its_later_events_are_handled(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    records = created((3, 1), (3, 2))
    ledger.break_ = fail_for(3)
    assert await handling.handle(records) == records
    ledger.break_ = fail_for()
    assert await handling.handle(records) == []

    assert await effects(pool) == [(3, 1), (3, 2)]
    assert await parked(pool) == []


async def test_later_events_of_a_blocked_key_are_parked_in_order(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    def break_(event: Any) -> None:
        if (event.order_id, event.version) == (3, 2):
            raise LookupError

    ledger.break_ = break_
    attempts = await handle_to_the_end(handling, created((3, 1), (3, 2), (3, 3), (4, 1), (3, 4)))
    assert attempts == MAX_ATTEMPTS
    await handling.handle(created((3, 5), (4, 2)))

    assert sorted(await effects(pool)) == [(3, 1), (4, 1), (4, 2)]
    rows = await pool.fetch("select value, attempts, blocks from parked order by id")
    assert [orjson.loads(row["value"])["version"] for row in rows] == [2, 3, 4, 5]
    assert [(row["attempts"], row["blocks"]) for row in rows] == [(MAX_ATTEMPTS, True), *[(0, True)] * 3]
    assert await pool.fetchval("select count(*) from inbox") == 7


async def test_a_key_is_handled_again_when_its_parked_events_are_resolved(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    await handle_to_the_end(handling, created((3, 1)))
    ledger.break_ = fail_for()
    await pool.execute("update parked set resolved_at = now()")
    await handling.handle(created((3, 2)))

    assert await effects(pool) == [(3, 2)]


async def test_the_same_key_of_another_topic_is_not_blocked(pool: Pool, ledger: Ledger, handling: Handling) -> None:
    ledger.break_ = fail_for(3)
    await handle_to_the_end(handling, created((3, 1)))
    ledger.break_ = fail_for()
    (elsewhere,) = created((3, 1))
    await handling.handle([elsewhere._replace(topic="returns.events")])

    assert await effects(pool) == [(3, 1)]


TRANSIENT = [
    asyncpg.DeadlockDetectedError("deadlock detected"),
    asyncpg.SerializationError("could not serialize"),
    asyncpg.ConnectionDoesNotExistError("connection was closed"),
    asyncpg.AdminShutdownError("terminating connection"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    asyncpg.LockNotAvailableError("lock timeout"),
    asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
]


async def test_transient_errors_of_postgres_never_park_an_event(pool: Pool, ledger: Ledger, handling: Handling) -> None:
    records = created((1, 1), (2, 1))
    for error in TRANSIENT * MAX_ATTEMPTS:
        ledger.break_ = fail_for(2, error=error)
        with pytest.raises(type(error)):
            await handling.handle(records)
    ledger.break_ = fail_for()
    await handling.handle(records)

    assert await effects(pool) == [(1, 1), (2, 1)]
    assert await parked(pool) == []


async def test_a_connection_killed_in_the_middle_of_a_batch_never_parks_an_event(pool: Pool) -> None:
    async def die(conn: Connection, given: list[OrderCreated]) -> None:
        async with pool.acquire() as other:
            await other.execute("select pg_terminate_backend($1)", conn.get_server_pid())
        await conn.execute("select 1")

    handling = Handling(pool, "ledger", {OrderCreated: die})
    with pytest.raises(postgres.ERRORS) as raised:
        await handling.handle(created((1, 1)))

    assert postgres.is_transient(raised.value)
    assert await parked(pool) == []


OWN_ERRORS = [
    TimeoutError(),
    FileNotFoundError("no such file"),
    asyncpg.InterfaceError("a transaction is open already"),
]


@pytest.mark.parametrize("error", OWN_ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_of_the_handler_while_postgres_answers_is_the_events_error(
    pool: Pool, ledger: Ledger, handling: Handling, error: Exception
) -> None:
    ledger.break_ = fail_for(2, error=error)
    await handle_to_the_end(handling, created((1, 1), (2, 1), (3, 1)))

    assert sorted(await effects(pool)) == [(1, 1), (3, 1)]
    assert await parked(pool) == [("2", MAX_ATTEMPTS, True)]


async def test_a_handler_that_opens_a_transaction_of_its_own_fails_alone(
    pool: Pool, owner: Pool, ledger: Ledger
) -> None:
    async def nested(conn: Connection, given: list[OrderConfirmed]) -> None:
        async with conn.transaction():
            pass

    await create_table(owner, EFFECTS)
    handling = Handling(pool, "ledger", {OrderCreated: ledger.write, OrderConfirmed: nested})
    await handle_to_the_end(handling, [*created((1, 1)), record(order_confirmed(2, 1)), *created((3, 1))])

    assert sorted(await effects(pool)) == [(1, 1), (3, 1)]
    assert await parked(pool) == [("2", MAX_ATTEMPTS, True)]


async def test_a_statement_that_is_too_slow_for_many_events_is_tried_with_fewer(pool: Pool) -> None:
    sizes = []

    async def slow(conn: Connection, given: list[OrderCreated]) -> None:
        sizes.append(len(given))
        if len(given) > 2:
            await conn.execute("set local statement_timeout = 20; select pg_sleep(5)")

    left = await Handling(pool, "ledger", {OrderCreated: slow}).handle(created(*[(n, 1) for n in range(1, 17)]))

    assert left == []
    assert sizes == [16, 8, 4, *[2] * 8]
    assert await parked(pool) == []


async def test_a_missing_table_parks_nothing_and_pauses_only_its_type(
    pool: Pool, owner: Pool, ledger: Ledger, handling: Handling
) -> None:
    async def note(conn: Connection, given: list[OrderConfirmed]) -> None:
        noted.extend(event.order_id for event in given)

    noted: list[int] = []
    handling = Handling(pool, "ledger", {OrderCreated: ledger.write, OrderConfirmed: note})
    await owner.execute("alter table effects rename to effects_of_the_next_release")
    broken = created(*[(n, 1) for n in range(1, 9)], (30, 2))
    sound = [record(order_confirmed(key, 1)) for key in (20, 30)]  # one of them comes before a broken one of its key
    behind = record(order_confirmed(1, 2))
    left: Sequence[Record] = [*broken[:8], *sound, behind, broken[8]]
    for _ in range(MAX_ATTEMPTS + 2):
        left = await handling.handle(left)

    assert left == [*broken[:8], behind, broken[8]]
    assert len(ledger.calls) == MAX_ATTEMPTS + 2, "all events of the type are held at once"
    assert (noted, await parked(pool)) == ([20, 30], [])
    assert gauge("consumer_type_paused", "OrderCreated") == 1
    assert gauge("consumer_held_events", "OrderCreated") == 9
    await owner.execute("alter table effects_of_the_next_release rename to effects")
    assert await handling.handle(left) == []
    assert sorted(await effects(pool)) == [*[(n, 1) for n in range(1, 9)], (30, 2)]
    assert gauge("consumer_type_paused", "OrderCreated") == 0
    assert gauge("consumer_held_events", "OrderCreated") == 0


async def test_a_missing_grant_parks_nothing_even_at_low_load(pool: Pool, ledger: Ledger, handling: Handling) -> None:
    ledger.break_ = fail_for(1, error=asyncpg.InsufficientPrivilegeError("permission denied for table effects"))
    left: Sequence[Record] = created((1, 1))
    for _ in range(MAX_ATTEMPTS + 2):
        left = await handling.handle(left)
    assert (len(left), await parked(pool)) == (1, [])

    ledger.break_ = fail_for()
    assert await handling.handle(left) == []
    assert await effects(pool) == [(1, 1)]


async def test_events_that_failed_are_not_tried_before_their_time(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    left = await handling.handle(created((3, 1)))
    calls = len(ledger.calls)
    later = created((3, 2), (4, 1))
    assert await handling.handle([*left, *later], retry=False) == [*left, later[0]]

    assert await effects(pool) == [(4, 1)]
    assert len(ledger.calls) == calls + 1


async def test_a_type_of_which_every_event_fails_is_paused_and_parks_nothing(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(*range(1, 9))
    left: Sequence[Record] = created(*[(n, 1) for n in range(1, 9)])
    for _ in range(MAX_ATTEMPTS + 2):
        left = await handling.handle(left)
    assert (len(left), await parked(pool)) == (8, [])
    assert gauge("consumer_type_paused", "OrderCreated") == 1

    ledger.break_ = fail_for()  # the cause is mended
    assert await handling.handle(left) == []
    assert await parked(pool) == []


async def test_many_bad_events_in_a_row_are_parked_when_a_later_event_of_their_type_succeeds(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(*range(1, 9))
    left: Sequence[Record] = created(*[(n, 1) for n in range(1, 9)])
    for _ in range(MAX_ATTEMPTS):
        left = await handling.handle(left)
    assert len(left) == 8
    left = await handling.handle([*left, *created((9, 1))], retry=False)
    assert await effects(pool) == [(9, 1)]
    assert await parked(pool) == []
    assert await handle_to_the_end(handling, left) == MAX_ATTEMPTS, "attempts while the type was paused do not count"

    assert {key for key, *_ in await parked(pool)} == {str(n) for n in range(1, 9)}
    assert gauge("consumer_type_paused", "OrderCreated") == 0


async def test_a_paused_type_costs_only_a_few_attempts_each_time(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(*range(1, 201))
    left: Sequence[Record] = created(*[(n, 1) for n in range(1, 201)])
    tried = set()
    for _ in range(6):
        ledger.calls.clear()
        left = await handling.handle(left)
        tried |= {orders[0][0] for _, orders in ledger.calls if len(orders) == 1}
        assert len(ledger.calls) < 40
    assert len(left) == 200
    assert len(tried) > 8, "each time, others are tried"

    ledger.break_ = fail_for(7)
    left = await handling.handle(left)
    assert await handle_to_the_end(handling, left) <= MAX_ATTEMPTS + 1
    assert len(await effects(pool)) == 199
    assert [key for key, *_ in await parked(pool)] == ["7"]


async def test_a_slow_event_is_not_parked_before_another_one_of_its_type_succeeds(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(1, error=TimeoutError())
    left: Sequence[Record] = created((1, 1))
    for _ in range(MAX_ATTEMPTS + 2):
        left = await handling.handle(left)
    assert (len(left), await parked(pool)) == (1, [])

    left = await handling.handle([*left, *created((2, 1))])
    assert await handle_to_the_end(handling, left) == 1 if left else True
    assert [key for key, *_ in await parked(pool)] == ["1"]


async def test_of_an_event_that_comes_twice_the_first_record_is_held(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(3)
    first, behind = created((3, 1), (3, 2))
    again = first._replace(offset=behind.offset + 10)

    assert await handling.handle([first, behind, again]) == [first, behind]
    assert await handling.handle([first, behind, again], retry=False) == [first, behind]


async def test_two_bad_events_next_to_each_other_are_parked_without_a_good_one(
    pool: Pool, ledger: Ledger, handling: Handling
) -> None:
    ledger.break_ = fail_for(1, 2)
    assert await handle_to_the_end(handling, created((1, 1), (2, 1))) == MAX_ATTEMPTS

    assert [key for key, *_ in await parked(pool)] == ["1", "2"]


async def test_bad_records_of_many_bytes_are_parked_in_several_transactions(
    pool: Pool, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    park = parking.park

    async def noted(conn: Connection, consumer: str, rows: Sequence[Any]) -> Any:
        sizes.append(sum(len(row.record.value) for row in rows))
        return await park(conn, consumer, rows)

    monkeypatch.setattr(parking, "park", noted)
    records = [one._replace(value=b"x" * 1_000_000) for one in created(*[(n, 1) for n in range(1, 11)])]
    await handling.handle(records)

    assert len(await parked(pool)) == 10
    assert max(sizes) <= 3_000_000


async def test_an_event_whose_effects_are_in_already_is_not_parked(pool: Pool, handling: Handling) -> None:
    (done,) = created((1, 1))
    await handling.handle([done])
    broken = done._replace(value=b"{", offset=done.offset + 1)
    late = Parked(broken, "LookupError()", 3, blocks=True, event_id=UUID(header(done, "ce_id")))
    await handling._park([late], Turn([]))

    assert await parked(pool) == []


def header(one: Record, name: str) -> str:
    return next(value.decode() for found, value in one.headers if found == name and value is not None)


async def test_events_of_unknown_aggregates_are_parked_alone_and_block_nothing(
    pool: Pool, owner: Pool, ledger: Ledger
) -> None:
    await create_table(owner, EFFECTS)

    async def write(conn: Connection, given: list[OrderCreated]) -> None:
        if strange := [e for e in given if e.order_id == 3 and e.version < 3]:
            raise UnknownAggregate(list[object](strange))
        await ledger.write(conn, given)

    handling = Handling(pool, "ledger", {OrderCreated: write})
    await handling.handle(created((1, 1), (3, 1), (2, 1), (3, 2), (3, 3)))

    assert sorted(await effects(pool)) == [(1, 1), (2, 1), (3, 3)]
    assert await parked(pool) == [("3", 1, False)] * 2


async def test_a_handler_that_names_the_wrong_events_as_unknown_counts_as_failed(pool: Pool) -> None:
    async def confused(conn: Connection, given: list[OrderCreated]) -> None:
        raise UnknownAggregate([e.model_copy() for e in given])

    handling = Handling(pool, "ledger", {OrderCreated: confused})
    await handle_to_the_end(handling, created((1, 1), (2, 1)))

    assert await parked(pool) == [("1", MAX_ATTEMPTS, True), ("2", MAX_ATTEMPTS, True)]


async def test_a_failing_event_with_a_very_long_key_is_parked(pool: Pool) -> None:
    async def fail(conn: Connection, given: list[ProductChanged]) -> None:
        raise LookupError

    sku = "".join(str(uuid4()) for _ in range(200))
    changed = ProductChanged(version=1, product_id=1, sku=sku, name="X", price_cents=1, currency="EUR", active=True)
    await handle_to_the_end(Handling(pool, "ledger", {ProductChanged: fail}), [record(changed)])

    assert [key for key, *_ in await parked(pool)] == [sku]


async def test_an_event_whose_handler_publishes_a_too_large_event_is_parked(pool: Pool) -> None:
    async def inflate(conn: Connection, given: list[OrderCreated]) -> None:
        await outbox.append(conn, [order_created(given[0].order_id, note="x" * outbox.MAX_BYTES)])

    await handle_to_the_end(Handling(pool, "ledger", {OrderCreated: inflate}), created((1, 1)))

    assert await parked(pool) == [("1", MAX_ATTEMPTS, True)]


async def test_the_callback_is_called_after_each_commit(pool: Pool, owner: Pool, ledger: Ledger) -> None:
    await create_table(owner, EFFECTS)
    calls = 0

    def committed() -> None:
        nonlocal calls
        calls += 1

    handling = Handling(pool, "ledger", {OrderCreated: ledger.write}, committed)
    (good,) = created((1, 1))
    await handling.handle([good])
    await handling.handle([good._replace(value=None)])

    assert calls == 2


async def test_a_batch_holds_the_locks_of_its_keys_while_it_is_handled(pool: Pool, owner: Pool, ledger: Ledger) -> None:
    """Without them, another transaction could write an event of the key with an earlier xid and a later commit."""
    await create_table(owner, EFFECTS)
    entered, finish = asyncio.Event(), asyncio.Event()

    async def slow(conn: Connection, given: list[Any]) -> None:
        entered.set()
        await finish.wait()
        await ledger.write(conn, given)

    handling = Handling(pool, "ledger", {OrderCreated: slow}, also_lock=["everything"])
    task = asyncio.create_task(handling.handle(created((17, 1))))
    await entered.wait()
    blocked = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
    for key in ("17", "everything"):
        waiting = asyncio.create_task(lock(pool, key))
        await eventually(lambda: pool.fetchval(blocked))
        waiting.cancel()
        await asyncio.wait([waiting])
    await lock(pool, "18")  # another key is free
    finish.set()
    await task


async def lock(pool: Pool, key: str) -> None:
    async with postgres.transaction(pool, [key]):
        pass


async def test_metrics_count_what_became_of_the_events(pool: Pool, ledger: Ledger, handling: Handling) -> None:
    before = {outcome: consumed(outcome) for outcome in ("handled", "duplicate", "parked", "skipped")}
    good = created((1, 1), (2, 1), (3, 1))
    ignored = record(
        ProductChanged(version=1, product_id=1, sku="x", name="X", price_cents=1, currency="EUR", active=True)
    )
    bad = good[0]._replace(value=b"{", offset=1_000_000)
    ledger.break_ = fail_for(3)
    handling._ignored.add("ProductChanged")
    await handle_to_the_end(handling, [*good, ignored, bad])
    ledger.break_ = fail_for()
    await handling.handle(good[:2])

    after = {outcome: consumed(outcome) - count for outcome, count in before.items()}
    assert after["handled"] == 2
    assert after["duplicate"] >= 2
    assert after["parked"] == 2
    assert after["skipped"] >= 1


def gauge(name: str, type_: str) -> float:
    return REGISTRY.get_sample_value(name, {"type": type_}) or 0.0


def consumed(outcome: str) -> float:
    return REGISTRY.get_sample_value("consumer_events_total", {"outcome": outcome}) or 0.0
