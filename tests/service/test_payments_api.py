"""The payment of an order over HTTP: only its owner and administrators can see it."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.inventory import InventoryReserved
from payments import service
from payments.domain import Captured, Claim, Declined, Outcome
from shared import postgres
from shared.web import database
from tests.conftest import OpenPool
from tests.service.conftest import Client, Serve
from tests.tokens import OTHER, USER, Mint

TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", re.ASCII)
ORDER = 41


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve("payments")


def reserved(order_id: int = ORDER, **changes: Any) -> InventoryReserved:
    fields: dict[str, Any] = {"version": 1, "order_id": order_id, "user_id": USER, "sku": "burger", "quantity": 2}
    money = {"amount_cents": 1700, "currency": "EUR", "expires_at": datetime.now(UTC) + timedelta(seconds=55)}
    return InventoryReserved(**(fields | money | changes))


async def intend(client: Client, *outcomes: Outcome, **changes: Any) -> None:
    """Create the payment of the reserved order, and settle it with these outcomes of the provider."""
    now = datetime.now(UTC)
    claim = Claim(7, now + timedelta(seconds=5))
    async with postgres.transaction(client.app[database.POOL], [str(ORDER)]) as conn:
        await service.intend(conn, [reserved(**changes)], claim, now)
        for outcome in outcomes:
            held = await service.claimed(conn, [(ORDER, claim.token)])
            await service.settle(conn, [(payment, outcome) for payment in held], now, now)


async def cancel(client: Client) -> None:
    now = datetime.now(UTC)
    async with postgres.transaction(client.app[database.POOL], [str(ORDER)]) as conn:
        await service.cancel(conn, [ORDER], Claim(8, now), now)


async def ask(client: Client, headers: dict[str, str], order_id: object = ORDER) -> tuple[int, Any]:
    """The status of the answer, and its JSON, or the detail of a problem."""
    answer = await client.get(f"/payments/{order_id}", headers=headers)
    found = await answer.json(content_type=None)
    return answer.status, found if answer.status < 400 else found["detail"]


async def test_a_payment_is_shown_to_its_orders_owner_and_to_administrators(client: Client, mint: Mint) -> None:
    await intend(client)
    status, shown = await ask(client, mint.header())
    times = {name: shown.pop(name) for name in ("created_at", "updated_at")}
    assert (status, shown) == (200, {"order_id": ORDER, "status": "PENDING", "amount_cents": 1700, "currency": "EUR"})
    assert all(TIME.fullmatch(time) for time in times.values())
    assert await ask(client, mint.admin) == (200, shown | times)


async def test_a_payment_is_not_found_for_other_users(client: Client, mint: Mint) -> None:
    await intend(client)
    assert await ask(client, mint.header(OTHER)) == await ask(client, mint.header(), 999) == (404, "not found")
    assert (await ask(client, {}))[0] == 401
    assert (await ask(client, Mint().admin))[0] == 401
    assert (await ask(client, Mint("another").admin))[0] == 401


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (Captured("ch_1", 1700, "EUR"), "SUCCEEDED", {"provider_ref": "ch_1"}),
        (Declined(), "FAILED", {"reason": "payment_declined"}),
    ],
)
async def test_reason_and_reference_are_shown_if_they_exist(
    client: Client, mint: Mint, outcome: Outcome, status: str, expected: dict[str, str]
) -> None:
    await intend(client, outcome)
    _, shown = await ask(client, mint.header())
    assert shown["status"] == status
    assert {name: shown[name] for name in ("reason", "provider_ref") if name in shown} == expected
    assert await ask(client, mint.header(OTHER)) == (404, "not found")


async def test_a_payment_keeps_its_owner_when_it_is_refunded(client: Client, mint: Mint) -> None:
    await intend(client, Captured("ch_1", 1700, "EUR"))
    await cancel(client)
    status, shown = await ask(client, mint.header())
    assert (status, shown["status"]) == (200, "REFUNDING")


async def test_a_payment_that_arrived_too_late_has_an_owner_too(client: Client, mint: Mint) -> None:
    await intend(client, expires_at=datetime.now(UTC))
    status, shown = await ask(client, mint.header())
    assert (status, shown["status"], shown["reason"]) == (200, "FAILED", "deadline_passed")


async def test_only_administrators_see_a_tombstone(client: Client, mint: Mint) -> None:
    await cancel(client)
    await intend(client)
    assert await ask(client, mint.header()) == (404, "not found")
    status, shown = await ask(client, mint.admin)
    assert (status, shown["status"], shown["amount_cents"], shown["currency"]) == (200, "CANCELLED", 0, "")


async def test_only_administrators_see_an_old_payment_without_an_owner(client: Client, mint: Mint) -> None:
    await intend(client)
    await client.app[database.POOL].execute("update payments set user_id = null")
    assert await ask(client, mint.header()) == (404, "not found")
    assert (await ask(client, mint.admin))[0] == 200


async def test_a_bad_id_is_400(client: Client, mint: Mint) -> None:
    for bad in ["0", "-1", "x", "1.0", "\u0667", "9223372036854775808", "%00", "7%0A", "1" * 400]:
        assert await ask(client, mint.header(), bad) == (400, "invalid id"), bad


async def test_an_id_with_leading_zeros_is_that_id(client: Client, mint: Mint) -> None:
    await intend(client)
    assert (await ask(client, mint.header(), f"00{ORDER}"))[0] == 200
    assert (await ask(client, mint.header(OTHER), f"00{ORDER}"))[0] == 404


async def test_a_request_is_answered_in_time_while_postgres_does_not_answer(
    client: Client, mint: Mint, open_pool: OpenPool
) -> None:
    pool = await open_pool("payments")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("set local idle_in_transaction_session_timeout = 0")
        await conn.execute("lock table payments")
        async with asyncio.timeout(3):
            assert await ask(client, mint.header()) == (503, "db error")


async def test_storing_the_owner_costs_no_extra_statement(client: Client) -> None:
    statements: list[str] = []
    now = datetime.now(UTC)
    async with client.app[database.POOL].acquire() as conn:
        await service.intend(conn, [reserved(999)], Claim(7, now), now)  # the first time, asyncpg also reads types
        await conn.execute("delete from payments")
        with conn.query_logger(lambda record: statements.append(record.query)):
            intents = [reserved(n, user_id=f"u{n}") for n in range(1, 101)]
            assert await service.intend(conn, intents, Claim(7, now), now) == list(range(1, 101))
        owners = dict(await conn.fetch("select order_id, user_id from payments"))
    assert len(statements) == 1
    assert owners == {n: f"u{n}" for n in range(1, 101)}


async def test_a_process_without_the_api_part_serves_no_payments(serve: Serve, mint: Mint) -> None:
    client = await serve("payments", only=["relay"])
    assert (await client.get("/payments/1", headers=mint.header())).status == 404
