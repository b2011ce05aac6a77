"""Changes of one sku are made one after another, and orders and inventory can apply the published events."""

import asyncio
from typing import Any

import pytest
from asyncpg import Pool

from contracts.products import ProductChanged, ProductCreated
from inventory import consumer as inventory
from orders import consumer as orders
from products import service, store
from products.domain import Product
from shared import postgres
from shared.delivery.events import Record, headers, static_headers
from shared.delivery.handling import Handling
from tests.conftest import OpenPool


@pytest.fixture
async def pool(open_pool: OpenPool) -> Pool:
    return await open_pool("products")


async def two_changes_at_once(pool: Pool, monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...]) -> list[Product]:
    """Each change sets another field of the burger, and waits between reading and writing."""
    get = store.get

    async def get_and_wait(conn: postgres.Connection, product_id: int) -> Product | None:
        found = await get(conn, product_id)
        await asyncio.sleep(0.2)
        return found

    async def change(**values: Any) -> Product:
        async with postgres.transaction(pool, keys=keys) as conn:
            return await service.change(conn, 1, values)

    monkeypatch.setattr(store, "get", get_and_wait)
    return list(await asyncio.gather(change(name="Double Burger"), change(price_cents=1)))


async def published_versions(pool: Pool) -> list[int]:
    rows = await pool.fetch("select convert_from(value, 'UTF8')::json ->> 'version' from outbox where key = 'burger'")
    return sorted(int(row[0]) for row in rows)


async def test_two_changes_at_once_are_both_made(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    await two_changes_at_once(pool, monkeypatch, ("burger",))
    row = await pool.fetchrow("select name, price_cents, version from products where id = 1")
    assert tuple(row) == ("Double Burger", 1, 3)
    assert await published_versions(pool) == [1, 2, 3]


async def test_without_the_lock_of_the_sku_one_change_is_lost_and_a_version_is_used_twice(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_changes_at_once(pool, monkeypatch, ())
    row = await pool.fetchrow("select name, price_cents, version from products where id = 1")
    assert tuple(row) in [("Double Burger", 850, 2), ("Burger", 1, 2)]
    assert await published_versions(pool) == [1, 2, 2]


async def test_a_product_and_its_events_are_rolled_back_together(pool: Pool) -> None:
    with pytest.raises(RuntimeError, match="too bad"):  # noqa: PT012  # the transaction is what is tested
        async with postgres.transaction(pool, keys=["salad"]) as conn:
            await service.create(conn, "salad", "Salad", 990, active=True)
            await service.change(conn, 1, {"active": False})
            raise RuntimeError("too bad")
    assert await pool.fetchval("select count(*) from products where not active or sku = 'salad'") == 0
    assert await pool.fetchval("select count(*) from outbox where type = 'ProductChanged' or key = 'salad'") == 0


async def published(pool: Pool) -> list[Record]:
    """The records that a relay makes of all outbox rows."""
    rows = await pool.fetch("select topic, key, type, head, value from outbox order by xid, id")
    return [
        Record(topic, 0, n, 0, key.encode(), value, list(headers(static_headers(type_, "/test"), key.encode(), head)))
        for n, (topic, key, type_, head, value) in enumerate(rows)
    ]


async def test_orders_and_inventory_apply_the_events_of_products(pool: Pool, open_pool: OpenPool) -> None:
    async with postgres.transaction(pool, keys=["salad"]) as conn:
        salad = await service.create(conn, "salad", "Sal\u00e4d", 990, active=True)
    async with postgres.transaction(pool, keys=["salad"]) as conn:
        await service.change(conn, salad.id, {"price_cents": 0, "active": False})
    async with postgres.transaction(pool, keys=["burger"]) as conn:
        await service.change(conn, 1, {"price_cents": 900})

    catalogue, stock = await open_pool("orders"), await open_pool("inventory")
    records = await published(pool)
    assert {orders.HANDLERS[model] for model in (ProductCreated, ProductChanged)}
    for _ in range(2):  # the second time changes nothing
        await Handling(catalogue, "orders", orders.HANDLERS).handle(records)
        await Handling(stock, "inventory", inventory.HANDLERS).handle(records)

    read = "select {}, sku, name, price_cents, currency, active, version from products order by 1"
    assert await catalogue.fetch(read.format("product_id")) == await pool.fetch(read.format("id"))
    assert await stock.fetchval("select available from stock where sku = 'salad'") == 0
    assert await stock.fetchval("select available from stock where sku = 'burger'") == 1_000_000
    for replica in (catalogue, stock):
        assert await replica.fetchval("select count(*) from parked") == 0
