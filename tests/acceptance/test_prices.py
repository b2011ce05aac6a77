"""A price changes while orders come in: each is charged what it says itself."""

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
TELL_AMOUNTS = ("OrderCreated", "InventoryReserved", "PaymentSucceeded")
REMEMBERED_SECONDS = 1.1
"""For a second orders remembers what it read of the catalogue."""


async def set_price(system: System, client: Client, cents: int) -> None:
    """Change the price through the gateway; returns when orders has heard of it."""
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
                await asyncio.sleep(REMEMBERED_SECONDS)
                changed = time.monotonic()
                await many(max(ORDERS, len(ids(client.history)) + ORDERS // 10))
            facts = await system.settled()
        finally:
            await set_price(system, client, old)
    placed = [call for call in client.history if call.kind == "place"]
    assert {call.status for call in placed} == {202}
    prices = {id_: facts.orders[id_]["product"]["price_cents"] for id_ in ids(client.history)}
    assert len(prices) == len(placed) >= ORDERS
    assert {prices[call.answer["id"]] for call in placed if call.ended < changing} == {old}
    assert {prices[call.answer["id"]] for call in placed if call.started > changed} == {new}
    assert set(prices.values()) == {old, new}

    told: dict[tuple[str, int], dict[str, Any]] = {}
    for record in facts.ours:
        if (type_ := header(record, "ce_type")) in TELL_AMOUNTS:
            event = orjson.loads(record.value or b"")
            told[type_, event["order_id"]] = event
    ledger = {row["key"]: row for row in facts.movements if row["kind"] == "capture"}
    for id_, price in prices.items():
        order = facts.orders[id_]
        amounts = {
            order["amount_cents"],
            *(told[type_, id_]["amount_cents"] for type_ in TELL_AMOUNTS),
            facts.payments[id_]["amount_cents"],
            ledger[f"order:{id_}"]["amount_cents"],
        }
        assert amounts == {price * order["quantity"]}, (order, amounts)
        assert told["OrderCreated", id_]["product"]["price_cents"] == price
        assert order["status"] == "CONFIRMED"
    await system.settled()
