"""Too many requests: a service that is late refuses new ones at once, and answers what must always be answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from shared.web import admission, application, operations
from shared.web.admission import ADMISSION, BUSY, MAX_AT_WORK, MAX_IN_FLIGHT, MIN_IN_FLIGHT, Admission
from tests.builders import eventually
from tests.service.conftest import Client

ORDER = {"userId": "u1", "sku": "burger", "quantity": 1}


class Waiting:
    """A queue whose oldest entry has waited so long."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def late() -> AsyncIterator[tuple[Admission, Waiting]]:
    made, queue = Admission(), Waiting()
    made.watch("queue", queue)
    for _ in range(MIN_IN_FLIGHT):
        made.enter()
    yield made, queue
    for _ in range(MIN_IN_FLIGHT):
        made.leave()


def says(made: Admission, reason: str | None) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return made.reason() == reason

    return asked


async def test_a_short_delay_is_no_reason(late: tuple[Admission, Waiting]) -> None:
    made, queue = late
    for queue.seconds in (0.0, admission.TARGET_SECONDS):
        assert made.reason() is None


async def test_a_long_delay_is_a_reason_at_once_and_no_longer_than_it_lasts(late: tuple[Admission, Waiting]) -> None:
    made, queue = late
    queue.seconds = admission.LIMIT_SECONDS + 0.01
    assert made.reason() == "queue"
    queue.seconds = 0.0
    await eventually(says(made, None))


async def test_a_delay_above_the_target_is_a_reason_if_it_lasts(late: tuple[Admission, Waiting]) -> None:
    made, queue = late
    queue.seconds = admission.TARGET_SECONDS + 0.01
    made.reason()
    await eventually(says(made, "queue"))


async def test_with_few_requests_nothing_is_refused(late: tuple[Admission, Waiting]) -> None:
    made, queue = late
    queue.seconds = 60.0
    made.leave()
    assert made.reason() is None
    made.enter()
    assert made.reason() == "queue"


async def test_a_blocked_event_loop_is_a_reason(late: tuple[Admission, Waiting]) -> None:
    made, _ = late
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().call_soon(_block)
    reasons = []
    for _ in range(5):
        await asyncio.sleep(0)
        reasons.append(made.reason())
    assert "event loop" in reasons
    await eventually(says(made, None))


def _block() -> None:
    __import__("time").sleep(admission.LIMIT_SECONDS + 0.2)


async def test_the_number_of_requests_is_bounded() -> None:
    made = Admission()
    with ExitStack() as stack:
        for _ in range(MAX_IN_FLIGHT):
            made.enter()
            stack.enter_context(made.resting())
        assert made.reason() == "in flight"
        made.leave()
        assert made.reason() is None
    for _ in range(MAX_IN_FLIGHT - 1):
        made.leave()


async def test_the_number_of_requests_at_work_is_bounded() -> None:
    made = Admission()
    for _ in range(MAX_AT_WORK - 1):
        made.hand()
    made.enter()
    assert made.reason() == "at work"
    with made.resting():
        assert made.reason() is None
    made.begin()
    assert made.reason() is None
    made.leave()


async def test_work_in_the_background_gives_way_long_before_requests_are_refused() -> None:
    made = Admission()
    assert not made.is_busy()
    for _ in range(BUSY):
        made.hand()
    assert made.is_busy()
    assert made.reason() is None
    made.begin()
    assert not made.is_busy()


async def test_a_late_service_refuses_before_it_reads_the_body_and_answers_what_it_always_must(orders: Client) -> None:
    order_id = (await (await orders.post("/v1/orders", json=ORDER)).json())["id"]
    made, queue = orders.app[ADMISSION], Waiting()
    made.watch("test", queue)
    queue.seconds = 60.0
    for _ in range(MIN_IN_FLIGHT):
        made.enter()
    for call in (
        orders.post("/v1/orders", data=b"{" * 1000),
        orders.post("/v1/orders", json=ORDER),
        orders.get(f"/v1/orders/{order_id}"),
    ):
        answer: Any = await call
        problem = await answer.json(content_type="application/problem+json")
        assert (answer.status, problem["type"]) == (503, "/problems/refused")
        assert answer.headers["Retry-After"] in {"1", "2", "3"}
    for path in ("/healthz", "/livez", "/readyz", "/openapi.json"):
        assert (await orders.get(path)).status == 200
    assert (await orders.get("/nowhere")).status == 404
    figures = await (await orders.get("/metrics")).text()
    assert 'http_server_requests_refused_total{reason="test"}' in figures
    assert (await orders.post(f"/v1/orders/{order_id}/cancel")).status == 202
    assert (await orders.get("/admin/health")).status == 401
    queue.seconds = 0.0
    assert (await orders.post("/v1/orders", json=ORDER)).status == 202
    (new, old) = (await (await orders.get("/v1/orders")).json())["orders"]
    assert (new["status"], old["id"]) == ("PENDING", order_id)


async def test_every_request_leaves_again(orders: Client) -> None:
    made = orders.app[ADMISSION]
    for call in (
        orders.get("/nowhere"),
        orders.get("/v1/orders/0"),
        orders.post("/v1/orders", data=b"{"),
        orders.get("/v1/orders"),
    ):
        await call
    assert made._in_flight == 0

    async def no_timer() -> bool:
        return made._due is None

    await eventually(no_timer)  # without requests, no timer wakes the process


async def test_without_operations_nothing_is_ever_refused() -> None:
    app = application.create()
    app[operations.TOKEN_REQUIRED] = True
    app[ADMISSION].watch("test", lambda: 60.0)
    for _ in range(MIN_IN_FLIGHT):
        app[ADMISSION].enter()
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/healthz")).status == 200


async def test_a_few_requests_that_wait_for_long_set_no_timer() -> None:
    admission = Admission()
    for _ in range(MIN_IN_FLIGHT // 2 - 1):
        admission.enter()
    assert admission._due is None
    admission.enter()
    assert admission._due is not None
