"""The saga's say, with real orders: in an outage nothing ends, and every order is accepted."""

import asyncio

from orders.api import BACKEND, PLACING
from shared.web import database
from shared.web.admission import ADMISSION
from tests.service.conftest import Serve

ORDER = {"userId": "u1", "sku": "burger", "quantity": 1}
LOOKS = 6


async def test_in_an_outage_orders_are_accepted_although_ids_are_taken_in_advance(serve: Serve) -> None:
    orders = await serve("orders", require_token=False)
    pressure = orders.app[BACKEND].pressure
    for n in range(LOOKS):
        answers = await asyncio.gather(*[orders.post("/v1/orders", json=ORDER) for _ in range(60)])
        assert [answer.status for answer in answers] == [202] * 60, n
        await pressure.look()
    assert pressure._last is not None
    assert pressure._last[1] == 60 * LOOKS


async def test_orders_that_end_are_counted(serve: Serve) -> None:
    orders = await serve("orders", require_token=False)
    pressure, pool = orders.app[BACKEND].pressure, orders.app[database.POOL]
    await asyncio.gather(*[orders.post("/v1/orders", json=ORDER) for _ in range(150)])
    await pressure.look()
    await pool.execute(
        "update orders set status = 'CONFIRMED' where id in (select id from orders order by id limit 50)"
    )
    await orders.post("/v1/orders", json=ORDER)
    await pressure.look()
    assert pressure._last is not None
    assert pressure._last[1] == 101
    assert pressure._rate > 0


async def test_orders_are_refused_before_the_disk_is_full_and_accepted_when_there_is_room(serve: Serve) -> None:
    orders = await serve("orders", require_token=False, max_database_gigabytes=0.001)  # less than an empty one has
    pressure = orders.app[BACKEND].pressure
    await pressure.look()
    answer = await orders.post("/v1/orders", json=ORDER)
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["type"]) == (503, "/problems/refused")
    assert problem["detail"].startswith("the database has 0.0 GB")
    declared = {f"{route.method} {route.resource.canonical}" for route in orders.app.router.routes() if route.resource}
    assert set(PLACING) <= declared
    assert {why.detail for why in orders.app[ADMISSION].closed.values()} == {problem["detail"]}
    assert set(orders.app[ADMISSION].closed) == set(PLACING)
    pressure._max_bytes = 10**12
    await pressure.look()
    assert orders.app[ADMISSION].closed == {}
    assert (await orders.post("/v1/orders", json=ORDER)).status == 202
