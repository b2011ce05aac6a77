"""Every request is answered within three seconds while Postgres is frozen, or Kafka is frozen or stopped.

Without Kafka, orders are accepted.
"""

import asyncio
import time

import pytest

from tests.acceptance.client import ANSWER_SECONDS, Client, Load, ids, slowest, wrong_answers
from tests.acceptance.conftest import System


async def asking(client: Client, paths: list[str], seconds: float) -> None:
    """Send GET requests to all these paths, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.gather(*(client.ask(path) for path in paths), asyncio.sleep(0.2))


async def test_every_request_is_answered_in_time_while_postgres_is_frozen(system: System) -> None:
    async with system.customers(system.orders_url) as client:
        first = await client.place_with_retries({"userId": "u1", "sku": "burger", "quantity": 1})
        id_ = first.answer["id"]
        paths = ["/readyz", "/livez", "/healthz", "/metrics", f"/v1/orders/{id_}", "/v1/orders", "/v1/orders?userId=u1"]
        async with Load(client, per_second=20, give_up=0.5):
            await asyncio.sleep(1)
            async with system.frozen("postgres"):
                await asyncio.gather(asking(client, paths, 6), client.cancel(id_), client.get(id_, wait=3))
            await asyncio.sleep(1)
    await system.settled()
    seconds, call = slowest(client.history, system.lag)
    system.measure("answer, Postgres frozen", seconds)
    assert seconds <= ANSWER_SECONDS, call
    assert not wrong_answers(client.history)
    assert {call.outcome for call in client.history if call.kind == "place"} >= {
        "ok",
        "unknown",
    }  # proof that Postgres was frozen


@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_orders_are_accepted_without_kafka(system: System, how: str) -> None:
    async with system.customers(system.orders_url) as client, Load(client, per_second=20):
        await asyncio.sleep(1)
        if how == "frozen":
            async with system.frozen("kafka"):
                await asking(client, ["/readyz", "/livez", "/v1/orders"], 11)  # longer than a relay waits for Kafka
        else:
            await system.stop("kafka")
            await asking(client, ["/readyz", "/livez", "/v1/orders"], 5)
            await system.start("kafka")
    await system.settled()
    placed = [call for call in client.history if call.kind == "place"]
    assert len(ids(client.history)) >= 0.999 * len({call.key for call in placed})
    seconds, call = slowest(client.history, system.lag)
    system.measure(f"answer, Kafka {how}", seconds)
    assert seconds <= ANSWER_SECONDS, call
    assert not wrong_answers(client.history)
