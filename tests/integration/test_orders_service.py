"""The use cases of orders on a real Postgres: concurrent changes have one winner and one final event."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from asyncpg import Pool
from prometheus_client import REGISTRY

from contracts.inventory import InventoryRejected
from contracts.payments import PaymentSucceeded
from contracts.products import ProductChanged, ProductCreated
from orders import consumer, service, store
from orders.domain import Request
from orders.placement import Placement
from orders.service import OrderNotFound, UnknownIds
from orders.worker import Sweeper
from shared import errors, postgres

ROUNDS = 200


def may_see_all(_: str) -> bool:
    return True


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("orders")
    return made


async def place(pool: Pool, count: int = 1, *, deadline_seconds: float = 60, **changes: Any) -> list[int]:
    fields = {"user_id": "u1", "sku": "burger", "quantity": 2} | changes
    async with pool.acquire() as conn:
        answers = await Placement("", deadline_seconds).write(conn, [Request(**fields) for _ in range(count)])
    return [answer.order_id for answer in answers]  # type: ignore[union-attr]


@asynccontextmanager
async def locked(pool: Pool, *ids: int) -> AsyncIterator[Any]:
    async with postgres.transaction(pool) as conn:
        await postgres.lock_keys(conn, [str(id_) for id_ in ids])
        yield conn


async def history(pool: Pool, order_id: int) -> list[tuple[str, int]]:
    rows = await pool.fetch(
        "select type, (convert_from(value, 'UTF8')::json ->> 'version')::int from outbox "
        "where key = $1 order by xid, id",
        str(order_id),
    )
    return [tuple(row) for row in rows]


async def state(pool: Pool, order_id: int) -> tuple[Any, ...]:
    return tuple(await pool.fetchrow("select status, reason, version from orders where id = $1", order_id))


async def race(pool: Pool, ids: list[int]) -> None:
    """Run payment, sweeper and customer at the same time, for one order after another."""

    async def sweep(order_id: int) -> None:
        async with postgres.transaction(pool) as conn:
            await service.cancel_overdue(conn, [order_id])

    async def pay(order_id: int) -> None:
        async with locked(pool, order_id) as conn:
            await service.confirm(conn, [order_id])

    async def cancel(order_id: int) -> None:
        try:
            async with postgres.transaction(pool) as conn:
                await service.cancel(conn, order_id, may_see_all)
        except errors.Conflict:
            pass

    for n, order_id in enumerate(ids):
        changes = [pay(order_id), cancel(order_id), sweep(order_id)]
        await asyncio.gather(*changes[n % 3 :], *changes[: n % 3])


async def inconsistent(pool: Pool, ids: list[int]) -> list[int]:
    """The orders whose history is not: created, then one final event that agrees with the row."""
    expected = {"CONFIRMED": "OrderConfirmed", "CANCELLED": "OrderCancelled"}
    wrong = []
    for order_id in ids:
        status, reason, version = await state(pool, order_id)
        events = await history(pool, order_id)
        good = events == [("OrderCreated", 1), (expected.get(status), 2)] and version == 2
        wrong += [] if good and (reason is None) == (status == "CONFIRMED") else [order_id]
    return wrong


async def test_payment_sweeper_and_customer_at_once_have_one_winner(pool: Pool) -> None:
    ids = await place(pool, ROUNDS, deadline_seconds=-1)
    await race(pool, ids)
    assert await inconsistent(pool, ids) == []
    winners = {(await state(pool, order_id))[:2] for order_id in ids}
    assert len(winners) > 1, "all orders had the same winner"


async def _no_locks(*_: Any) -> None:
    pass


async def test_the_status_check_of_the_update_alone_ensures_one_winner(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "lock_keys", _no_locks)
    ids = await place(pool, ROUNDS, deadline_seconds=-1)
    await race(pool, ids)
    assert await inconsistent(pool, ids) == []


async def test_without_the_status_check_and_the_key_locks_there_are_several_winners(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "lock_keys", _no_locks)
    unguarded = store._FINISH_FEW.replace("and o.status = 'PENDING'", "")
    assert unguarded != store._FINISH_FEW
    monkeypatch.setattr(store, "_FINISH_FEW", unguarded)
    ids = await place(pool, ROUNDS, deadline_seconds=-1)
    await race(pool, ids)
    assert await inconsistent(pool, ids)


async def test_the_sweeper_cancels_all_overdue_orders_and_no_others(pool: Pool) -> None:
    overdue, open_ = await place(pool, 3, deadline_seconds=-1), await place(pool)
    async with locked(pool, overdue[0]) as conn:
        await service.confirm(conn, overdue[:1])
    sweeper = Sweeper(pool, 1.0, lambda: None)
    assert await sweeper.run_once() == 2
    assert await sweeper.run_once() == 0
    assert await state(pool, overdue[0]) == ("CONFIRMED", None, 2)
    for order_id in overdue[1:]:
        assert await state(pool, order_id) == ("CANCELLED", "deadline_passed", 2)
        assert await history(pool, order_id) == [("OrderCreated", 1), ("OrderCancelled", 2)]
    assert await state(pool, open_[0]) == ("PENDING", None, 1)


async def test_the_sweeper_measures_the_oldest_open_order(pool: Pool) -> None:
    oldest, _ = await place(pool, 2)
    await pool.execute("update orders set created_at = now() - interval '50 s' where id = $1", oldest)
    await Sweeper(pool, 1.0, lambda: None).run_once()
    assert (REGISTRY.get_sample_value("orders_oldest_open_seconds") or 0) >= 50
    await pool.execute("update orders set status = 'CANCELLED'")
    await Sweeper(pool, 1.0, lambda: None).run_once()
    assert REGISTRY.get_sample_value("orders_oldest_open_seconds") == 0


async def test_the_sweeper_does_not_change_an_order_that_became_final_meanwhile(pool: Pool) -> None:
    (order_id,) = await place(pool, deadline_seconds=-1)
    async with locked(pool, order_id) as conn:
        await service.confirm(conn, [order_id])
    async with postgres.transaction(pool) as conn:
        await service.cancel_overdue(conn, [order_id])
    assert await state(pool, order_id) == ("CONFIRMED", None, 2)


async def test_more_overdue_orders_than_one_batch_are_swept_at_once(pool: Pool) -> None:
    ids = await place(pool, 600, deadline_seconds=-1)
    stop = asyncio.Event()
    sweeping = asyncio.create_task(Sweeper(pool, 60.0, lambda: None).run(stop))
    async with asyncio.timeout(10):
        while await pool.fetchval("select count(*) from orders where status = 'PENDING'"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stop.set()
    await sweeping
    assert await pool.fetchval("select count(distinct key) from outbox where type = 'OrderCancelled'") == len(ids)


async def test_unknown_orders_are_named_and_the_rest_of_the_batch_is_unchanged(pool: Pool) -> None:
    (order_id,) = await place(pool)
    for change in (
        lambda conn: service.confirm(conn, [order_id, 404, 405]),
        lambda conn: service.cancel_all(conn, {order_id: "out_of_stock", 404: "out_of_stock", 405: "unknown_sku"}),
    ):
        with pytest.raises(UnknownIds) as raised:
            async with locked(pool, order_id, 404, 405) as conn:
                await change(conn)
        assert raised.value.ids == {404, 405}
    assert await state(pool, order_id) == ("PENDING", None, 1)


async def test_handlers_name_the_events_of_unknown_orders(pool: Pool) -> None:
    (order_id,) = await place(pool)
    paid = [
        PaymentSucceeded(version=1, order_id=id_, amount_cents=1, currency="EUR", provider_ref="x")
        for id_ in (order_id, 404)
    ]
    refused = [
        InventoryRejected(version=1, order_id=id_, sku="burger", quantity=2, reason="out_of_stock")
        for id_ in (order_id, 404)
    ]
    for handler, events in ((consumer.on_payment_succeeded, paid), (consumer.on_refusal, refused)):
        with pytest.raises(errors.UnknownAggregate) as raised:
            async with locked(pool, order_id, 404) as conn:
                await handler(conn, events)  # type: ignore[operator]
        assert raised.value.events == events[1:]
    assert await state(pool, order_id) == ("PENDING", None, 1)


async def test_an_unknown_order_can_neither_be_read_nor_cancelled(pool: Pool) -> None:
    for use_case in (service.get, partial(service.cancel, may_see=may_see_all)):
        with pytest.raises(OrderNotFound):
            async with postgres.transaction(pool) as conn:
                await use_case(conn, 404)


def product(version: int, price: int, **changes: Any) -> ProductChanged:
    fields = {
        "version": version,
        "product_id": 1,
        "sku": "burger",
        "name": "Burger",
        "price_cents": price,
        "currency": "EUR",
        "active": True,
    }
    return ProductChanged(**(fields | changes))


async def test_an_order_keeps_the_price_of_its_placement(pool: Pool) -> None:
    (before,) = await place(pool)
    async with postgres.transaction(pool) as conn:
        await service.replicate(conn, [product(2, 999)])
    (after,) = await place(pool)
    rows = await pool.fetch("select id, amount_cents, product ->> 'price_cents' as price from orders order by id")
    assert [tuple(r) for r in rows] == [(before, 1700, "850"), (after, 1998, "999")]


async def test_an_old_version_of_a_product_after_a_new_one_changes_nothing(pool: Pool) -> None:
    for change in (product(5, 500), product(4, 400), product(5, 555), product(1, 100)):
        async with postgres.transaction(pool) as conn:
            await service.replicate(conn, [change])
    row = await pool.fetchrow("select version, price_cents from products where sku = 'burger'")
    assert tuple(row) == (5, 500)


async def test_the_newest_version_of_each_product_in_a_batch_is_stored(pool: Pool) -> None:
    new = ProductCreated(**product(1, 70, sku="soup", product_id=70).model_dump())
    changes = [product(3, 300), product(2, 200), new, product(2, 71, sku="soup", product_id=70)]
    async with postgres.transaction(pool) as conn:
        await service.replicate(conn, changes)
    rows = await pool.fetch("select sku, version, price_cents from products where sku in ('burger', 'soup') order by 1")
    assert [tuple(row) for row in rows] == [("burger", 3, 300), ("soup", 2, 71)]


async def test_a_withdrawn_product_is_ordered_without_a_price(pool: Pool) -> None:
    async with postgres.transaction(pool) as conn:
        await service.replicate(conn, [product(2, 850, active=False)])
    await place(pool)
    row = await pool.fetchrow("select amount_cents, product from orders")
    assert tuple(row) == (None, {"sku": "burger"})


async def test_the_time_to_the_end_of_an_order_is_measured_by_outcome_and_reason(pool: Pool) -> None:
    def read(outcome: str, reason: str) -> tuple[float, float]:
        labels = {"outcome": outcome, "reason": reason}
        count, total = (REGISTRY.get_sample_value(f"order_duration_seconds_{x}", labels) for x in ("count", "sum"))
        return count or 0.0, total or 0.0

    ends = [("CONFIRMED", ""), ("CANCELLED", "cancelled_by_customer")]
    before = [read(*end) for end in ends]
    confirmed, cancelled = await place(pool, 2)
    await pool.execute("update orders set created_at = now() - interval '40 s'")
    for _ in range(2):  # the second time changes nothing
        async with locked(pool, confirmed) as conn:
            await service.confirm(conn, [confirmed])
        async with postgres.transaction(pool) as conn:
            await service.cancel(conn, cancelled, may_see_all)
    for end, (count, total) in zip(ends, before, strict=True):
        assert read(*end)[0] == count + 1
        assert read(*end)[1] - total >= 40


async def test_the_kept_plan_of_a_large_batch_compares_no_order_with_all_others(pool: Pool) -> None:
    plans = []
    async with pool.acquire() as conn:
        await conn.execute("set plan_cache_mode = force_generic_plan")
        for name, sql in (("few", store._FINISH_FEW), ("many", store._FINISH_MANY)):
            await conn.execute(f"prepare {name} as {sql}")
            rows = await conn.fetch(f"explain (costs off) execute {name}({', '.join(['null'] * 11)})")
            plans.append("\n".join(row[0] for row in rows))
    few, many = plans
    assert "= ANY ($1)" in few
    assert "= ANY" not in many


async def test_a_large_batch_becomes_final_once(pool: Pool) -> None:
    ids = await place(pool, store._FEW + 1)
    for _ in range(2):
        async with locked(pool, *ids) as conn:
            await service.confirm(conn, ids)
    for order_id in (ids[0], ids[-1]):
        assert await state(pool, order_id) == ("CONFIRMED", None, 2)
        assert await history(pool, order_id) == [("OrderCreated", 1), ("OrderConfirmed", 2)]
