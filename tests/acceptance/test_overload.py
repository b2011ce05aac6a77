"""Too many requests at once: each gets an answer, none is reset, and what was accepted is not lost."""

import asyncio

from tests.acceptance.conftest import System

ORDER = {"userId": "u1", "sku": "burger", "quantity": 1}
WAITING = 80
ORDERS = 600


async def test_a_process_that_is_late_answers_everybody_and_refuses_in_time(system: System) -> None:
    """It is late because it was frozen for two seconds, in which the requests came."""
    async with system.customers(system.orders_url) as client:
        async with system.frozen("payments"):
            first = await client.place_with_retries(ORDER)
            polls = [asyncio.create_task(client.get(first.answer["id"], wait=8)) for _ in range(WAITING)]
            await asyncio.sleep(1)
            async with system.frozen("orders"):
                sent = [asyncio.create_task(client.place(ORDER)) for _ in range(ORDERS)]
                await asyncio.sleep(2)
            calls = await asyncio.gather(*sent)
        waited = await asyncio.gather(*polls)
        after = await client.place_with_retries(ORDER)
        ended = await client.follow(after.answer["id"])
    assert {call.status for call in calls} <= {202, 503}, {(call.status, call.error) for call in calls}
    refused = [call for call in calls if call.status == 503]
    assert refused
    assert {(call.problem, call.retry_after in {"1", "2", "3"}) for call in refused} == {("refused", True)}
    assert {call.status for call in waited} == {200}
    assert ended["status"] == "CONFIRMED"
    await system.settled()
