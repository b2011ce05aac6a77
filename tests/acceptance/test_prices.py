"""The price changes while orders arrive: each order is charged the price of its own snapshot."""

import asyncio
import time
from itertools import count
from typing import Any

import asyncpg
import orjson

from tests.acceptance.checker import header
from tests.acceptance.client import Client, ids, steadily
from tests.acceptance.conftest import System
from tests.builders import eventually

FRIES, SKU = "/products/3", "fries"
ORDERS = 1000
WITH_AMOUNTS = ("OrderCreated", "InventoryReserved", "PaymentSucceeded")
CACHE_SECONDS = 1.1
"""The orders service caches a product for one second."""


async def set_price(system: System, client: Client, cents: int) -> None:
    """Change the price through the gateway; return when the orders service has the new price."""
    changed = await client.administer("PATCH", FRIES, {"price_cents": cents})
    assert (changed.status, changed.answer["price_cents"]) == (200, cents), changed
    conn = await asyncpg.connect(system.database_url)
    try:

        async def is_known() -> bool:
            row = await conn.fetchrow("select price_cents, version from orders.products where sku = $1", SKU)
            return bool(row == (cents, changed.answer["version"]))

        await eventually(is_known)
    finally:
        await conn.close()


async def test_every_order_is_charged_the_price_of_its_own_snapshot(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        old = (await client.ask(FRIES)).answer["price_cents"]
        new, numbers = old + 111, count()

        async def order() -> None:
            n = next(numbers)
            await client.place({"userId": f"p{n % 20}", "sku": SKU, "quantity": 1 + n % 3})

        async def many(least: int) -> None:
            async def are_there() -> bool:
                return len(ids(client.history)) >= least

            await eventually(are_there)

        try:
            async with steadily(300, order):
                await many(ORDERS // 4)
                changing = time.monotonic()
                await set_price(system, client, new)
                await asyncio.sleep(CACHE_SECONDS)
                changed = time.monotonic()
                await many(max(ORDERS, len(ids(client.history)) + ORDERS // 10))
            evidence = await system.settled()
        finally:
            await set_price(system, client, old)
    placed = [call for call in client.history if call.kind == "place"]
    assert {call.status for call in placed} == {202}
    prices = {id_: evidence.orders[id_]["product"]["price_cents"] for id_ in ids(client.history)}
    assert len(prices) == len(placed) >= ORDERS
    assert {prices[call.answer["id"]] for call in placed if call.ended < changing} == {old}
    assert {prices[call.answer["id"]] for call in placed if call.started > changed} == {new}
    assert set(prices.values()) == {old, new}

    published: dict[tuple[str, int], dict[str, Any]] = {}
    for record in evidence.ours:
        if (type_ := header(record, "ce_type")) in WITH_AMOUNTS:
            event = orjson.loads(record.value or b"")
            published[type_, event["order_id"]] = event
    ledger = {row["key"]: row for row in evidence.movements if row["kind"] == "capture"}
    for id_, price in prices.items():
        order = evidence.orders[id_]
        amounts = {
            order["amount_cents"],
            *(published[type_, id_]["amount_cents"] for type_ in WITH_AMOUNTS),
            evidence.payments[id_]["amount_cents"],
            ledger[evidence.provider_key(id_)]["amount_cents"],
        }
        assert amounts == {price * order["quantity"]}, (order, amounts)
        assert published["OrderCreated", id_]["product"]["price_cents"] == price
        assert order["status"] == "CONFIRMED"
    await system.settled()
