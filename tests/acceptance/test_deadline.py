"""No order stays PENDING and no late charge is kept, even if payments is down for a long time."""

import asyncio
import time

from tests.acceptance.client import Client
from tests.acceptance.conftest import System

DEADLINE_SECONDS = 4.0
BURGERS = {"userId": "u1", "sku": "burger", "quantity": 2}


async def ended(system: System, client: Client, count: int) -> tuple[set[int], float]:
    """Place `count` orders and wait until all are final; return their ids and the seconds until then."""
    started = time.monotonic()
    calls = await asyncio.gather(*(client.place_with_retries(BURGERS) for _ in range(count)))
    placed = {call.answer["id"] for call in calls}
    seen = await asyncio.gather(*(client.follow(id_, DEADLINE_SECONDS + 20) for id_ in placed))
    assert {(order["status"], order.get("reason")) for order in seen} == {("CANCELLED", "deadline_passed")}
    return placed, system.lag.elapsed(started)


async def test_orders_are_cancelled_at_their_deadline_while_payments_is_down(system: System) -> None:
    async with system.instead("orders", ORDER_DEADLINE_SECONDS=DEADLINE_SECONDS), system.customers() as client:
        await system.stop("payments")
        placed, seconds = await ended(system, client, 40)
        system.measure("past the deadline", seconds - DEADLINE_SECONDS)
        assert seconds <= DEADLINE_SECONDS + 5
        await system.start("payments")
        evidence = await system.settled()
    assert {evidence.reservations[id_]["status"] for id_ in placed} == {"RELEASED"}
    assert not [row for row in evidence.movements if row["key"] in {evidence.provider_key(id_) for id_ in placed}]


async def test_charges_of_orders_cancelled_meanwhile_are_refunded(system: System) -> None:
    """Payments is killed after the provider charged and before the answer arrived.

    It restarts when the orders are cancelled.
    """
    async with (
        system.instead("orders", ORDER_DEADLINE_SECONDS=DEADLINE_SECONDS),
        system.customers() as client,
    ):
        async with system.instead("payments", PROVIDER_TIMEOUT_AFTER_CHARGE_RATIO=1) as payments:
            ending = asyncio.create_task(ended(system, client, 40))
            await asyncio.sleep(2)
            payments.kill()
            placed, _ = await ending
        evidence = await system.settled()
    assert {evidence.payments[id_]["status"] for id_ in placed} == {"CANCELLED"}
    keys = {evidence.provider_key(id_) for id_ in placed}
    assert [
        row["key"] for row in evidence.movements if row["kind"] == "refund" and row["key"] in keys
    ]  # some were charged
