"""The saga's say, with real orders: in an outage nothing ends, and every order is accepted."""

import asyncio

from orders.api import BACKEND
from shared.web import database
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
