"""The events of an order, in any sequence and repeated, end it once; the first event that matters decides how."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
from asyncpg import Pool
from pydantic import BaseModel

from contracts.inventory import InventoryRejected, InventoryReserved
from contracts.payments import PaymentFailed, PaymentRefunded, PaymentSucceeded
from contracts.products import ProductChanged, ProductCreated
from orders import consumer, domain, store
from orders.domain import Request, Status
from orders.placement import Placement
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from tests.builders import order_created, record, with_header

OLD_IDS = [f"01800000-0000-7000-8000-00000000000{n}" for n in (1, 2)]
"""UUIDv7s of April 2022."""


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("orders")
    return made


@pytest.fixture
def handling(pool: Pool) -> Handling:
    return Handling(pool, "orders", consumer.HANDLERS, ignores=consumer.IGNORES, states=consumer.STATES)


def paid(order_id: int) -> BaseModel:
    return PaymentSucceeded(version=1, order_id=order_id, amount_cents=1700, currency="EUR", provider_ref="r")


def failed(order_id: int) -> BaseModel:
    return PaymentFailed(version=1, order_id=order_id, reason="payment_declined")


def rejected(order_id: int) -> BaseModel:
    return InventoryRejected(version=1, order_id=order_id, sku="burger", quantity=2, reason="out_of_stock")


EVENTS = (paid, failed, rejected)
ENDS = {paid: ("CONFIRMED", None), failed: ("CANCELLED", "payment_declined"), rejected: ("CANCELLED", "out_of_stock")}

# Every permutation of every subset of the events, and each of them with one event repeated at every later place.
ONCE = [way for count in (1, 2, 3) for way in permutations(range(3), count)]
WAYS = sorted(
    {(*way[:at], again, *way[at:]) for way in ONCE for again in way for at in range(way.index(again) + 1, 4)}
    | set(ONCE)
)


async def place(pool: Pool, count: int) -> list[int]:
    async with pool.acquire() as conn:
        answers = await Placement("", 60.0).write(conn, [Request("u1", "burger", 2) for _ in range(count)])
    return [answer.order_id for answer in answers]  # type: ignore[union-attr]


def delivery(order_id: int, way: Sequence[int]) -> list[Record]:
    """The records of these events in this order; a repeated event is the same record, byte for byte."""
    made = {n: record(EVENTS[n](order_id)) for n in set(way)}  # type: ignore[arg-type]
    return [made[n] for n in way]


async def check(pool: Pool, ways: dict[int, Sequence[int]]) -> None:
    rows = await pool.fetch(
        "select id, status, reason, version, (select array_agg(type || ' ' || (convert_from(value, 'UTF8')::json ->> "
        "'version') order by xid, id) from outbox where key = o.id::text) as published from orders o"
    )
    assert len(rows) == len(ways)
    for row in rows:
        status, reason = ENDS[EVENTS[ways[row["id"]][0]]]
        final = "OrderConfirmed 2" if status == "CONFIRMED" else "OrderCancelled 2"
        assert (row["status"], row["reason"], row["version"]) == (status, reason, 2), ways[row["id"]]
        assert row["published"] == ["OrderCreated 1", final], ways[row["id"]]
    assert await pool.fetchval("select count(*) from inbox") == sum(len(set(way)) for way in ways.values())
    assert await pool.fetchval("select count(*) from parked") == 0


def test_there_are_enough_permutations_and_repetitions() -> None:
    assert len(ONCE) == 15
    assert len(WAYS) > 60


async def test_every_permutation_and_repetition_converges_with_one_record_per_batch(
    pool: Pool, handling: Handling
) -> None:
    ways = dict(zip(await place(pool, len(WAYS)), WAYS, strict=True))
    deliveries = [delivery(order_id, way) for order_id, way in ways.items()]
    for turn in range(4):  # a batch is the n-th record of every order, so it has no two records of one order
        await handling.handle([records[turn] for records in deliveries if len(records) > turn])
    await check(pool, ways)


async def test_every_permutation_and_repetition_converges_in_one_batch(pool: Pool, handling: Handling) -> None:
    ways = dict(zip(await place(pool, len(WAYS)), WAYS, strict=True))
    records = [one for order_id, way in ways.items() for one in delivery(order_id, way)]
    await handling.handle(records)
    await check(pool, ways)
    for again in (records, records[::-1]):
        await handling.handle(again)  # all events again
    await check(pool, ways)


async def test_every_division_into_batches_converges(pool: Pool, handling: Handling) -> None:
    cuts = list(product((False, True), repeat=3))
    way = (0, 1, 0, 2)
    ids = await place(pool, len(cuts))
    for order_id, cut in zip(ids, cuts, strict=True):
        batch: list[Record] = []
        for one, ends in zip(delivery(order_id, way), (*cut, True), strict=True):
            batch.append(one)
            if ends:
                await handling.handle(batch)
                batch = []
    await check(pool, dict.fromkeys(ids, way))


async def test_without_the_rule_that_a_final_order_never_changes_the_check_fails(
    pool: Pool, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = domain.cancel
    monkeypatch.setattr(domain, "cancel", lambda order, reason: real(replace(order, status=Status.PENDING), reason))
    monkeypatch.setattr(store, "_FINISH_FEW", store._FINISH_FEW.replace("and o.status = 'PENDING'", ""))
    ways = dict(zip(await place(pool, 1), [(0, 1)], strict=True))
    await handling.handle(delivery(next(iter(ways)), (0, 1)))
    with pytest.raises(AssertionError):
        await check(pool, ways)


async def test_events_of_an_unknown_order_are_parked_alone(pool: Pool, handling: Handling) -> None:
    (order_id,) = await place(pool, 1)
    await handling.handle([record(paid(404)), record(paid(order_id)), record(rejected(405))])  # type: ignore[arg-type]
    rows = await pool.fetch("select key, blocks from parked order by key")
    assert [tuple(row) for row in rows] == [("404", False), ("405", False)]
    assert await pool.fetchval("select status from orders where id = $1", order_id) == "CONFIRMED"


async def test_a_new_replica_is_built_from_products_that_changed_long_ago(
    pool: Pool, owner: Pool, handling: Handling
) -> None:
    await owner.execute("truncate products")
    product = {"product_id": 1, "sku": "burger", "name": "Burger", "currency": "EUR", "active": True}
    records = [
        record(ProductCreated(version=1, price_cents=850, **product)),
        record(ProductChanged(version=2, price_cents=900, **product)),
    ]
    old = [with_header(one, "ce_id", id_.encode()) for one, id_ in zip(records, OLD_IDS, strict=True)]
    for given in (old, old, [old[0]]):
        assert await handling.handle(given) == []
    assert [tuple(row) for row in await pool.fetch("select version, price_cents from products")] == [(2, 900)]
    assert await pool.fetchval("select count(*) from parked") == 0
    assert await pool.fetchval("select count(*) from inbox") == 0


async def test_events_that_orders_does_not_handle_change_nothing(pool: Pool, handling: Handling) -> None:
    (order_id,) = await place(pool, 1)
    reserved = {**order_created(order_id).model_dump(exclude={"note", "product"}), "version": 1}
    refund = PaymentRefunded(version=2, order_id=order_id, amount_cents=1, currency="EUR", provider_ref="r")
    await handling.handle([record(InventoryReserved(**reserved)), record(refund)])
    assert tuple(await pool.fetchrow("select status, version from orders")) == ("PENDING", 1)
    assert await pool.fetchval("select count(*) from inbox") == 0
