"""An accepted order is never lost, even if any program is killed with SIGKILL many times."""

import asyncio
import random

from tests.acceptance import checker
from tests.acceptance.client import ANSWER_SECONDS, Load, ids, slowest, steadily, wrong_answers
from tests.acceptance.conftest import System
from tests.acceptance.visitors import WORK

KILLS = {"orders": 3, "inventory": 3, "payments": 3, "auth": 2, "users": 2, "products": 2}
KILLS |= {"postgres": 2, "kafka": 2, "gateway": 1}
BACK_SECONDS = 60.0


async def test_no_order_is_lost_or_doubled_by_twenty_kills_under_load(system: System) -> None:
    names = [name for name, times in KILLS.items() for _ in range(times)]
    random.Random(7).shuffle(names)
    back = []
    async with (
        system.customers() as client,
        system.customers(system.gateway_url) as visitors,
        checker.watching_stock(system.database_url) as stock_complaints,
        steadily(8, *[act for work in WORK.values() for act in await work(visitors)]),
        Load(client, per_second=8) as load,
    ):
        for name in names:
            back.append((name, await system.crash(name)))
            await asyncio.sleep(0.8)  # so that a program runs longer than supervisord's `startsecs`
    await system.settled()
    assert not wrong_answers(client.history + visitors.history)
    assert not stock_complaints
    assert [one for one in back if one[1] > BACK_SECONDS] == []
    seconds, call = slowest(client.history + visitors.history, system.lag)
    system.measure("answer during kills", seconds)
    assert seconds <= ANSWER_SECONDS, call
    assert len(ids(client.history)) > load.count * 0.85
    assert sum(call.outcome == "ok" for call in visitors.history) > len(visitors.history) * 0.6


async def test_killing_all_services_at_once_and_then_all_servers_loses_nothing(system: System) -> None:
    async with system.customers() as client, Load(client, per_second=20):
        for names in (("orders", "inventory", "payments"), ("postgres", "kafka")):
            await asyncio.sleep(1)
            await asyncio.gather(*(system.crash(name) for name in names))
    await system.settled()
    assert not wrong_answers(client.history)
