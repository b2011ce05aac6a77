"""`?wait=`: an order is shown as soon as it is final; a thousand waiting requests cost one statement per turn."""

import asyncio
import time
from typing import Any

import pytest

from orders import store
from orders.api import BACKEND
from shared.web import database
from shared.web.health import TASKS
from tests.builders import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = 30.0
"""The longest wait: an answer in a third of it did not wait for the end, however busy the machine is."""

GOOD = {"userId": "u1", "sku": "burger", "quantity": 2}


async def place(client: Any) -> str:
    return str((await client.post("/v1/orders", json=GOOD)).headers["Location"])


def waiting(client: Any, path: str, seconds: float) -> "asyncio.Task[Any]":
    return asyncio.create_task(client.get(f"{path}?wait={seconds}"))


async def until_they_wait(client: Any, orders: int = 1) -> None:
    async def check() -> bool:
        return len(client.app[BACKEND].waiters._waiting) == orders

    await eventually(check, pause=0.001)


async def finish_elsewhere(client: Any, path: str) -> None:
    """Make the order final as another process would, without a wake-up in this process."""
    order_id = int(path.rsplit("/", maxsplit=1)[-1])
    await client.app[database.POOL].execute("update orders set status = 'CONFIRMED' where id = $1", order_id)


async def test_an_order_that_becomes_final_in_this_process_is_shown_at_once(orders_for_all: Any) -> None:
    path = await place(orders_for_all)
    answer = waiting(orders_for_all, path, LONG)
    await until_they_wait(orders_for_all)
    started = time.monotonic()
    await orders_for_all.post(f"{path}/cancel")
    assert (await (await answer).json())["status"] == "CANCELLED"
    assert time.monotonic() - started < LONG / 3


async def test_an_order_that_becomes_final_in_another_process_is_shown_within_a_few_turns(orders_for_all: Any) -> None:
    path = await place(orders_for_all)
    answer = waiting(orders_for_all, path, LONG)
    await until_they_wait(orders_for_all)
    started = time.monotonic()
    await finish_elsewhere(orders_for_all, path)
    assert (await (await answer).json())["status"] == "CONFIRMED"
    assert time.monotonic() - started < LONG / 3


async def test_a_final_order_is_shown_without_a_wait(orders_for_all: Any) -> None:
    path = await place(orders_for_all)
    await finish_elsewhere(orders_for_all, path)
    started = time.monotonic()
    await waiting(orders_for_all, path, LONG)
    assert time.monotonic() - started < LONG / 3


async def test_an_order_that_stays_pending_is_shown_when_the_time_is_over(orders_for_all: Any) -> None:
    path = await place(orders_for_all)
    started = time.monotonic()
    answer = await waiting(orders_for_all, path, 0.3)
    assert (answer.status, (await answer.json())["status"]) == (200, "PENDING")
    assert 0.3 <= time.monotonic() - started < LONG / 3
    assert not orders_for_all.app[BACKEND].waiters._waiting


@pytest.mark.parametrize("seconds", ["0", "0.0", "00"])
async def test_a_wait_of_zero_does_not_wait(orders_for_all: Any, seconds: str) -> None:
    path = await place(orders_for_all)
    assert (await (await orders_for_all.get(f"{path}?wait={seconds}")).json())["status"] == "PENDING"


async def test_an_unknown_order_is_404_without_a_wait(orders_for_all: Any) -> None:
    started = time.monotonic()
    assert (await orders_for_all.get("/v1/orders/777777?wait=30")).status == 404
    assert time.monotonic() - started < LONG / 3


async def test_a_disconnected_waiting_request_is_dropped_when_its_time_is_over(orders_for_all: Any) -> None:
    path = await place(orders_for_all)
    hasty = waiting(orders_for_all, path, 0.5)
    await until_they_wait(orders_for_all)
    hasty.cancel()
    await until_they_wait(orders_for_all, 0)


async def test_a_thousand_waiting_requests_cost_one_statement_per_turn(
    orders_for_all: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [await place(orders_for_all) for _ in range(50)]
    waiters = orders_for_all.app[BACKEND].waiters
    reads: list[int] = []
    real = store.final

    async def counted(conn: Any, ids: Any) -> list[int]:
        reads.append(len(ids))
        return await real(conn, ids)

    monkeypatch.setattr(store, "final", counted)
    tasks = [asyncio.create_task(waiters.wait(int(paths[n % 50].split("/")[-1]), 10)) for n in range(1000)]
    await until_they_wait(orders_for_all, 50)
    started = time.monotonic()
    await eventually(lambda: _async(len(reads) >= 5))
    turns, seconds = len(reads), time.monotonic() - started
    assert turns <= seconds / 0.05 + 3
    assert reads[-1] == 50
    for path in paths:
        await finish_elsewhere(orders_for_all, path)
    await asyncio.gather(*tasks)
    assert sum(reads[turns:]) < 50 * 50


async def _async(value: Any) -> Any:
    return value


async def test_without_waiting_requests_nothing_is_read(orders_for_all: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any) -> list[int]:
        raise AssertionError("no request waits")

    monkeypatch.setattr(store, "final", never)
    assert await orders_for_all.app[BACKEND].waiters.run_once() == 0


@pytest.mark.asyncio(loop_scope="function")
async def test_waiting_requests_are_answered_at_once_when_the_process_stops(orders: Any) -> None:
    path = await place(orders)
    answers = [waiting(orders, path, 30) for _ in range(20)]
    await until_they_wait(orders)
    started = time.monotonic()
    orders.app[TASKS].start_draining()
    assert [(a.status, (await a.json())["status"]) for a in await asyncio.gather(*answers)] == [(200, "PENDING")] * 20
    late = await orders.app[BACKEND].waiters.wait(1, 30)
    assert late is None  # a later request on an open connection is answered too, with the order as it is
    await orders.close()
    assert time.monotonic() - started < LONG / 3
