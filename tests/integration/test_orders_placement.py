"""Placement: one statement writes many requests, also in several processes, without doubles or deadlocks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from asyncpg import Pool

from contracts.orders import OrderCreated
from orders import catalogue as catalogue_module
from orders import domain, store
from orders.catalogue import Catalogue
from orders.domain import Request
from orders.placement import Placement
from orders.service import Placed
from shared import postgres
from shared.delivery import events
from shared.errors import KeyReused

LATER = timedelta(minutes=1)


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("orders")
    return made


def burgers(key: str | None = None, **changes: Any) -> Request:
    return Request(**({"user_id": "u1", "sku": "burger", "quantity": 2, "idempotency_key": key} | changes))


@asynccontextmanager
async def running(url: str, **changes: Any) -> AsyncIterator[Placement]:
    placement = Placement(url, 60.0, **changes)
    stop = asyncio.Event()
    task = asyncio.create_task(placement.run(stop))
    try:
        yield placement
    finally:
        stop.set()
        await task


async def test_two_instances_never_use_an_id_twice(database: Any, pool: Pool) -> None:
    url = database.url_for("orders")
    async with running(url, max_batch=7) as one, running(url, max_batch=11) as other:
        answers = await asyncio.gather(*(placement.place(burgers()) for _ in range(500) for placement in (one, other)))
    ids = [answer.order_id for answer in answers]
    assert len(set(ids)) == 1000
    assert not any(answer.replayed for answer in answers)
    row = await pool.fetchrow(
        "select count(*), count(distinct id), (select count(distinct key) from outbox) from orders"
    )
    assert tuple(row) == (1000, 1000, 1000)


async def test_two_instances_with_the_same_keys_place_each_order_once(database: Any, pool: Pool) -> None:
    url = database.url_for("orders")
    keys = [uuid4().hex for _ in range(40)]
    async with running(url, max_batch=16) as one, running(url, max_batch=16) as other:
        answers = await asyncio.gather(
            *(placement.place(burgers(key)) for key in keys for placement in (one, other)),
            *(placement.place(burgers(key)) for key in reversed(keys) for placement in (other, one)),
        )
    assert len({answer.order_id for answer in answers}) == 40
    assert sum(not answer.replayed for answer in answers) == 40
    assert await pool.fetchval("select count(*) from outbox") == 40


async def test_each_order_and_its_event_have_the_same_payment_reference_which_no_other_order_has(
    database: Any, pool: Pool
) -> None:
    async with running(database.url_for("orders")) as placement:
        await asyncio.gather(*(placement.place(burgers(note=str(n))) for n in range(50)))
    stored = {row["id"]: row["payment_reference"] for row in await pool.fetch("select * from orders")}
    events = [OrderCreated.model_validate_json(row["value"]) for row in await pool.fetch("select value from outbox")]
    assert {event.order_id: event.payment_reference for event in events} == stored
    assert len(set(stored.values()) - {None}) == 50


async def test_batches_with_keys_in_opposite_orders_do_not_deadlock(pool: Pool) -> None:
    async def placed(requests: list[Request]) -> None:
        async with pool.acquire() as conn, conn.transaction():
            await Placement("", 60.0).write(conn, requests)

    for round_ in range(5):
        keys = [f"{round_}-{n:04}" for n in range(500)]
        await asyncio.gather(placed([burgers(key) for key in keys]), placed([burgers(key) for key in reversed(keys)]))
    assert await pool.fetchval("select count(*) from orders") == 5 * 500


async def test_unsorted_rows_deadlock(pool: Pool) -> None:
    """The reason to sort rows: each transaction has locked the row of one key and waits for the other."""

    async def placed(conn: Any, key: str) -> None:
        (order_id,) = await store.take_ids(conn, 1)
        now = datetime.now(UTC)
        order = domain.place(order_id, burgers(key), None, now, now + LATER)
        await store.place(conn, [order], [key], [events.encode(domain.created(order))])

    async with pool.acquire() as one, pool.acquire() as other:
        first = one.transaction()
        await first.start()
        second = other.transaction()
        await second.start()
        await placed(one, "A")
        await placed(other, "B")
        ends = await asyncio.gather(
            _then_rolled_back(placed(one, "B"), first),
            _then_rolled_back(placed(other, "A"), second),
            return_exceptions=True,
        )
        assert [type(end) for end in ends if end is not None] == [asyncpg.DeadlockDetectedError]


async def _then_rolled_back(work: Any, transaction: Any) -> None:
    try:
        await work
    finally:
        await transaction.rollback()


async def test_a_batch_written_again_changes_nothing_and_has_the_same_results(pool: Pool) -> None:
    placement = Placement("", 60.0)
    requests = [burgers(), burgers("k"), burgers("k"), burgers("k", quantity=3)]
    async with pool.acquire() as conn:
        first = await placement.write(conn, requests)
        again = await placement.write(conn, requests)
    assert first[:3] == [Placed(1, False), Placed(2, False), Placed(2, True)]
    assert again[:3] == first[:3]
    assert isinstance(first[3], KeyReused)
    assert isinstance(again[3], KeyReused)
    assert await pool.fetchval("select count(*) from orders") == 2
    assert await pool.fetchval("select count(*) from outbox") == 2


async def test_a_request_that_cannot_be_written_does_not_fail_the_rest_of_its_batch(database: Any, pool: Pool) -> None:
    async with running(database.url_for("orders"), workers=1) as placement:
        answers = await asyncio.gather(
            placement.place(burgers()),
            placement.place(burgers(note="\0")),
            placement.place(burgers()),
            return_exceptions=True,
        )
    assert [type(a) for a in answers[::2]] == [Placed, Placed]
    assert isinstance(answers[1], Exception)
    assert await pool.fetchval("select count(*) from orders") == 2


async def test_a_repeated_key_is_found_by_index(pool: Pool) -> None:
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(
            "insert into orders (user_id, product, expires_at, idempotency_key) "
            "select 'u' || n % 100, '{}', now(), case when n % 2 = 0 then n::text end from generate_series(1, 20000) n"
        )
    await pool.execute("analyze orders")
    plan = await pool.fetch("explain " + store._FIND, [1, 2], ["u0", "u1"], ["200", None])
    assert "Seq Scan" not in "\n".join(row[0] for row in plan)


async def test_the_catalogue_is_cached_for_one_second(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(catalogue_module.time, "monotonic", lambda: now)
    catalogue = Catalogue()
    async with pool.acquire() as conn:
        assert (await catalogue.find(conn, {"burger", "nothing"}))["nothing"] is None
        await conn.execute("update products set price_cents = 1 where sku = 'burger'")
        found = (await catalogue.find(conn, {"burger"}))["burger"]
        assert found is not None
        assert found.price_cents == 850
        now += 1.1
        found = (await catalogue.find(conn, {"burger"}))["burger"]
        assert found is not None
        assert found.price_cents == 1


async def test_two_workers_share_a_full_catalogue_cache(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "_SIZE", 2)
    catalogue = Catalogue()

    async def find(*skus: str) -> set[str]:
        async with pool.acquire() as conn:
            return set(await catalogue.find(conn, set(skus)))

    await find("burger", "pizza")
    first = asyncio.create_task(find("burger", "pizza", "fries"))  # reads fries; the others are cached
    real = store.products

    async def slow(conn: postgres.Connection, skus: Any) -> Any:
        if "fries" in skus:
            for sku in "abcd":  # the cache is full, and is cleared
                await find(sku)
        return await real(conn, skus)

    monkeypatch.setattr(store, "products", slow)
    assert await first == {"burger", "pizza", "fries"}


async def test_rows_are_written_in_the_order_of_user_and_key_and_each_caller_gets_its_own_id(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsorted rows of two batches can deadlock. A result in the order of the rows would be another caller's id."""
    written: list[list[tuple[str, str | None]]] = []
    real = store.place

    async def place(conn: Any, orders: Any, keys: Any, events: Any) -> Any:
        written.append([(order.user_id, key) for order, key in zip(orders, keys, strict=True)])
        return await real(conn, orders, keys, events)

    monkeypatch.setattr(store, "place", place)
    requests = [burgers(key, user_id=user) for user in ("u9", "u5", "u1") for key in ("z", "m", "a")]
    async with pool.acquire() as conn:
        answers = await Placement("", 60.0).write(conn, requests)

    assert written == [sorted((r.user_id, r.idempotency_key) for r in requests)]
    rows = await pool.fetch("select id, user_id, idempotency_key from orders")
    owners = {row["id"]: (row["user_id"], row["idempotency_key"]) for row in rows}
    assert [owners[a.order_id] for a in answers if isinstance(a, Placed)] == [
        (r.user_id, r.idempotency_key) for r in requests
    ]


async def test_large_amounts_are_exact(pool: Pool) -> None:
    """A float has 53 bits: it would be off by some cents here."""
    price, quantity = 999_999_999_999, 9_999
    await pool.execute("update products set price_cents = $1 where sku = 'burger'", price)
    async with pool.acquire() as conn:
        (placed,) = await Placement("", 60.0).write(conn, [burgers(quantity=quantity)])

    assert isinstance(placed, Placed)
    row = await pool.fetchrow(
        "select amount_cents, (select value from outbox where key = o.id::text) as event from orders o where id = $1",
        placed.order_id,
    )
    assert row["amount_cents"] == price * quantity == 9_998_999_999_990_001
    assert b'"amount_cents":9998999999990001' in row["event"]
