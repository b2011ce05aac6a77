"""What a customer sees: place an order and poll it until it is final; and what Kafka has of it."""

import asyncio
import time
from typing import Any
from uuid import UUID

import orjson
import pytest

from local.problem import Problem
from tests.acceptance.checker import header
from tests.acceptance.conftest import System


def order(sku: str, quantity: int) -> dict[str, Any]:
    return {"userId": "u1", "sku": sku, "quantity": quantity, "note": "extra napkins"}


@pytest.mark.parametrize(
    ("sku", "quantity", "status", "reason"),
    [
        ("burger", 2, "CONFIRMED", None),
        ("lobster", 1, "CANCELLED", "out_of_stock"),
        ("sushi", 100, "CANCELLED", "payment_declined"),
        ("unicorn", 1, "CANCELLED", "unknown_sku"),
    ],
)
async def test_every_order_becomes_final(
    system: System, sku: str, quantity: int, status: str, reason: str | None
) -> None:
    async with system.customers() as client:
        took = []
        for _ in range(5):
            started = time.monotonic()
            placed = await client.place(order(sku, quantity))
            assert placed.status == 202
            seen = await client.get(placed.answer["id"], wait=10)
            took.append(time.monotonic() - started)
            assert (seen.answer["status"], seen.answer.get("reason")) == (status, reason)
        system.measure(f"saga {status} {reason or ''}", sorted(took)[2])


async def test_customer_cancels_an_order_before_it_is_charged(system: System) -> None:
    await system.stop("inventory")
    async with system.customers() as client:
        placed = await client.place(order("burger", 1))
        cancelled = await client.cancel(placed.answer["id"])
        again = await client.cancel(placed.answer["id"])
        assert (cancelled.status, again.status) == (202, 202)
        assert cancelled.answer["reason"] == "cancelled_by_customer"
        await system.start("inventory")
    evidence = await system.settled()
    assert evidence.reservations[placed.answer["id"]]["status"] == "RELEASED"
    assert evidence.provider_key(placed.answer["id"]) not in {row["key"] for row in evidence.movements}


async def test_customer_cannot_cancel_a_final_order(system: System) -> None:
    async with system.customers() as client:
        placed = await client.place(order("burger", 1))
        await client.follow(placed.answer["id"])
        assert (await client.cancel(placed.answer["id"])).status == 409


async def test_customer_cancels_after_the_charge_and_is_refunded(system: System) -> None:
    async with system.instead("payments", PROVIDER_SLOW_SECONDS=1), system.customers() as client:
        placed = [await client.place(order("pizza", 1)) for _ in range(10)]
        await asyncio.sleep(0.7)
        answers = [await client.cancel(call.answer["id"]) for call in placed]
        assert {call.status for call in answers} == {202}
        evidence = await system.settled()
    mine = {call.answer["id"] for call in placed}
    assert {evidence.payments[id_]["status"] for id_ in mine} <= {"CANCELLED", "REFUNDED"}
    assert {evidence.reservations[id_]["status"] for id_ in mine} == {"RELEASED"}


async def test_wait_ends_when_the_order_is_final_or_the_time_is_over(system: System) -> None:
    async with system.customers() as client:
        await system.stop("payments")
        placed = await client.place(order("burger", 1))
        short = await client.get(placed.answer["id"], wait=1)
        assert short.answer["status"] == "PENDING"
        assert 0.9 <= short.ended - short.started <= 1.5
        waiting = asyncio.create_task(client.get(placed.answer["id"], wait=30))
        await system.start("payments")
        long = await waiting
        assert long.answer["status"] == "CONFIRMED"
        assert long.ended - long.started < 20
    await system.settled()


async def test_kafka_has_all_events_of_an_order_with_their_headers(system: System) -> None:
    async with system.customers() as client:
        placed = await client.place(order("burger", 2))
        await client.follow(placed.answer["id"])
    evidence = await system.settled()
    key = str(placed.answer["id"])
    mine = [record for record in evidence.records if record.key == key.encode()]
    assert {header(record, "ce_type"): record.topic for record in mine} == {
        "OrderCreated": "orders.events",
        "InventoryReserved": "inventory.events",
        "PaymentSucceeded": "payments.events",
        "OrderConfirmed": "orders.events",
    }
    for record in mine:
        assert UUID(header(record, "ce_id")).version == 7
        assert header(record, "ce_specversion") == "1.0"
        assert header(record, "ce_source") == "/quickbite/" + record.topic.removesuffix(".events")
        assert header(record, "ce_subject") == key
        assert header(record, "ce_time").endswith("Z")
        assert header(record, "content-type") == "application/json"
        assert str(orjson.loads(record.value or b"")["order_id"]) == key


async def test_a_restart_starts_the_chosen_services_again_and_the_others_stay(system: System) -> None:
    before = {name: process["pid"] for name, process in system.stack.supervisor.processes().items()}
    assert await asyncio.to_thread(system.stack.restart, ["payments"]) == ["payments"]

    after = {name: process["pid"] for name, process in system.stack.supervisor.processes().items()}
    assert [name for name in before if after[name] != before[name]] == ["payments"]
    with pytest.raises(Problem, match="Not a service: kafka"):
        system.stack.restart(["kafka"])
    async with system.customers() as client:
        placed = await client.place(order("burger", 1))
        assert (await client.get(placed.answer["id"], wait=10)).answer["status"] == "CONFIRMED"
