"""No charge is made twice or stays unknown, even if the provider loses answers and payments is killed."""

import asyncio
from collections import Counter

from tests.acceptance.client import Load, ids
from tests.acceptance.conftest import System

FAULTS = {
    "PROVIDER_TIMEOUT_AFTER_CHARGE_RATIO": 0.1,
    "PROVIDER_ERROR_AFTER_CHARGE_RATIO": 0.1,
    "PROVIDER_DOUBLE_RATIO": 0.1,
    "PROVIDER_SLOW_SECONDS": 0.05,
    "PROVIDER_SEED": 5,
    "CALL_SECONDS": 0.5,
    "CLAIM_SECONDS": 2,
}


async def test_each_order_is_charged_at_most_once_when_the_provider_loses_answers(system: System) -> None:
    async with system.customers() as client, system.instead("payments", **FAULTS) as payments:
        serving = asyncio.create_task(Load(client, per_second=40).run(300))
        await asyncio.sleep(3)
        payments.kill()
        async with system.instance("payments", "payments-1", port=payments.port, **FAULTS):
            await serving
            evidence = await system.settled()
    mine = ids(client.history)
    captures = Counter(row["key"] for row in evidence.movements if row["kind"] == "capture")
    assert max(captures.values()) == 1
    confirmed = [id_ for id_ in mine if evidence.orders[id_]["status"] == "CONFIRMED"]
    assert len(confirmed) > 150
    assert all(captures[evidence.provider_key(id_)] == 1 for id_ in confirmed)
