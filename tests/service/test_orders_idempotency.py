"""One Idempotency-Key of one user creates one order, even if it is sent many times at once."""

import asyncio
import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from shared import service as application
from shared.web import database

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = {"userId": "u1", "sku": "burger", "quantity": 2, "note": "x"}


async def send(client: Any, key: str, data: Any = None, **changes: Any) -> Any:
    body = json.dumps(GOOD | changes) if data is None else data
    return await client.post("/v1/orders", data=body, headers={"Idempotency-Key": key})


async def count(client: Any, key: str) -> tuple[int, int]:
    """The number of orders with this key, and the number of their events, with events of orders that do not exist."""
    row = await client.app[database.POOL].fetchrow(
        "with o as (select id::text from orders where idempotency_key = $1) "
        "select (select count(*) from o), (select count(*) from outbox where key in (select id from o) "
        "  or not exists (select from orders where id::text = key))",
        key,
    )
    return tuple(row)


@pytest.fixture
def key() -> str:
    return uuid4().hex


async def test_a_repeated_request_gets_the_first_answer_marked_as_replayed(orders_for_all: Any, key: str) -> None:
    first, *again = [await send(orders_for_all, key) for _ in range(3)]
    assert (first.status, "Idempotent-Replayed" in first.headers) == (202, False)
    for answer in again:
        assert (answer.status, await answer.text()) == (202, await first.text())
        assert answer.headers["Idempotent-Replayed"] == "true"
        assert answer.headers["Location"] == first.headers["Location"]
    assert await count(orders_for_all, key) == (1, 1)


@pytest.mark.parametrize(
    "data",
    [
        b' {\n"note" : "x","quantity":2,\t"sku":"burger","userId":"u1"}\r\n',
        rb'{"userId":"\u00751","sku":"burger","quantity":2,"note":"x"}',
        b'{"userId":" u1 ","sku":"burger\\n","quantity":2,"note":"x","unknown":[1]}',
    ],
    ids=["white space and order", "escapes", "trimmed and unknown"],
)
async def test_bodies_are_compared_after_parsing(orders_for_all: Any, key: str, data: bytes) -> None:
    first, again = await send(orders_for_all, key), await send(orders_for_all, key, data)
    assert (again.status, await again.text()) == (202, await first.text())
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("changes", [{"sku": "pizza"}, {"quantity": 3}, {"note": ""}], ids=lambda c: next(iter(c)))
async def test_another_body_with_the_same_key_is_refused(
    orders_for_all: Any, key: str, changes: dict[str, Any]
) -> None:
    await send(orders_for_all, key)
    answer = await send(orders_for_all, key, **changes)
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["type"]) == (422, "/problems/idempotency-key-reused")
    assert await count(orders_for_all, key) == (1, 1)


async def test_an_invalid_request_does_not_use_up_its_key(orders_for_all: Any, key: str) -> None:
    assert (await send(orders_for_all, key, quantity=0)).status == 400
    answer = await send(orders_for_all, key)
    assert (answer.status, "Idempotent-Replayed" in answer.headers) == (202, False)


async def test_two_users_may_use_the_same_key(orders_for_all: Any, key: str) -> None:
    answers = [await send(orders_for_all, key, userId=user) for user in ("u1", "u2", "U1")]
    assert len({await a.text() for a in answers}) == 3
    assert not any("Idempotent-Replayed" in a.headers for a in answers)


async def test_without_a_key_every_request_creates_an_order(orders_for_all: Any) -> None:
    answers = [await orders_for_all.post("/v1/orders", json=GOOD) for _ in range(2)]
    assert len({await a.text() for a in answers}) == 2


async def test_a_key_stays_used_when_its_order_is_cancelled(orders_for_all: Any, key: str) -> None:
    first = await send(orders_for_all, key)
    await orders_for_all.post(first.headers["Location"] + "/cancel")
    again = await send(orders_for_all, key)
    assert (again.status, await again.text()) == (202, await first.text())


async def test_fifty_requests_at_once_with_one_key_create_one_order_and_one_event(
    orders_for_all: Any, key: str
) -> None:
    answers = await asyncio.gather(*(send(orders_for_all, key) for _ in range(50)))
    assert {a.status for a in answers} == {202}
    assert len({await a.text() for a in answers}) == 1
    assert sum("Idempotent-Replayed" not in a.headers for a in answers) == 1
    assert await count(orders_for_all, key) == (1, 1)


async def test_fifty_requests_at_once_with_one_key_and_different_bodies_create_one_order(
    orders_for_all: Any, key: str
) -> None:
    answers = await asyncio.gather(*(send(orders_for_all, key, quantity=n % 5 + 1) for n in range(50)))
    assert sorted(a.status for a in answers) == [202] * 10 + [422] * 40
    assert await count(orders_for_all, key) == (1, 1)


async def test_a_client_that_disconnects_and_retries_gets_its_first_order(orders_for_all: Any, key: str) -> None:
    hasty = asyncio.create_task(send(orders_for_all, key))
    await asyncio.sleep(0)
    hasty.cancel()
    await asyncio.gather(hasty, return_exceptions=True)
    answers = [await send(orders_for_all, key) for _ in range(2)]
    assert len({await a.text() for a in answers}) == 1
    assert await count(orders_for_all, key) == (1, 1)


async def _hold(client: Any, key: str) -> Any:
    """Place an order with this key on another connection; return the connection and the open transaction."""
    conn = await asyncpg.connect(client.app[application.SETTINGS].database_url)
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute(
        "insert into orders (user_id, sku, quantity, note, product, expires_at, idempotency_key) "
        "values ('u1', 'burger', 2, 'x', '{}', now(), $1)",
        key,
    )
    return conn, transaction


async def _blocked(client: Any) -> None:
    waiting = (
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database())"
    )
    async with asyncio.timeout(2):
        while not await client.app[database.POOL].fetchval(waiting):  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("ending", "replayed"), [("commit", True), ("rollback", False)])
async def test_a_duplicate_waits_for_the_first_request(
    orders_for_all: Any, key: str, ending: str, replayed: bool
) -> None:
    conn, transaction = await _hold(orders_for_all, key)
    double = asyncio.create_task(send(orders_for_all, key))
    await _blocked(orders_for_all)
    assert not double.done()
    await getattr(transaction, ending)()
    answer = await double
    assert (answer.status, "Idempotent-Replayed" in answer.headers) == (202, replayed)
    assert (await count(orders_for_all, key))[0] == 1
    await conn.close()


async def test_a_duplicate_of_a_request_that_never_ends_is_a_conflict(orders_for_all: Any, key: str) -> None:
    conn, transaction = await _hold(orders_for_all, key)
    try:
        async with asyncio.timeout(3.1):
            answers = await asyncio.gather(send(orders_for_all, key), send(orders_for_all, key))
        problem = {(a.status, (await a.json(content_type="application/problem+json"))["type"]) for a in answers}
        assert problem == {(503, "/problems/outcome-unknown"), (409, "/problems/conflict")}
    finally:
        await transaction.rollback()
        await conn.close()
