"""Services are replaced by their next releases under load, in both orders; the releases are in `releases/`.

The next release of orders writes an event of a new type before the last event of each order, and a new optional field.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import orjson
import pytest

from tests.acceptance.checker import Evidence, header
from tests.acceptance.client import Load, ids, wrong_answers
from tests.acceptance.conftest import Instance, System
from tests.acceptance.releases.contract import TABLE, OrderNoted
from tests.builders import eventually

CONSUMERS = ("inventory", "payments")
RATE = 20
NOTED = "status <> 'PENDING' and version = 3"
"""What is true of an order that the next release finished: it has one event more."""
_HANDLED = "status = 'CONFIRMED' and id in (select order_id from inventory.effects_of_next_release where {})"
WITHOUT_GIFT = _HANDLED.format("type = 'OrderCreated' and gift is null")
WITH_GIFT = _HANDLED.format("type = 'OrderCreated' and gift = 'gift of ' || order_id")
"""What is true of an order whose OrderCreated the next release of inventory handled."""


async def test_when_consumers_are_replaced_first_nothing_is_parked(upgradable: System) -> None:
    async with AsyncExitStack() as releases:
        async with load(upgradable):
            for service in CONSUMERS:
                await finished(upgradable, 20)
                await releases.enter_async_context(replaced(upgradable, service))
            await finished(upgradable, 20, WITHOUT_GIFT)
            await releases.enter_async_context(replaced(upgradable, "orders"))
            await finished(upgradable, 20, WITH_GIFT)
            await finished(upgradable, 20, NOTED)
        evidence = await upgradable.settled()
    assert not {str(row["event_id"]) for row in evidence.parked} & noted(evidence).keys()
    assert await effects_of_notes(upgradable) == expected_effects(evidence)


async def test_when_the_producer_is_replaced_first_new_events_wait_alone_for_the_consumers(upgradable: System) -> None:
    async with AsyncExitStack() as releases:
        handled_before = await effects_of_notes(upgradable)
        async with load(upgradable):
            await finished(upgradable, 20)
            await releases.enter_async_context(replaced(upgradable, "orders"))
            await finished(upgradable, 40, NOTED)
        evidence = await upgradable.settled()  # orders are final, with stock and money: no event waits behind a note
        waiting = Counter((row["consumer"], row["key"]) for row in evidence.parked if row["resolved_at"] is None)
        assert waiting == expected_effects(evidence) - handled_before
        assert {one["error"] for one in evidence.parked} == {"unknown_type: OrderNoted"}
        assert len({order_id for _, order_id in waiting}) >= 40
        assert {order_id for _, order_id in waiting} & orders_with_a_gift(evidence)

        async with load(upgradable, seed=2):
            for service in CONSUMERS:
                await finished(upgradable, 20, NOTED)
                await releases.enter_async_context(replaced(upgradable, service))
            for service in CONSUMERS:
                await replay_once(upgradable, service)
            await finished(upgradable, 20, NOTED)
        evidence = await upgradable.settled()
    assert {row["resolution"] for row in evidence.parked} == {"handled"}
    assert await effects_of_notes(upgradable) == expected_effects(evidence)


async def test_orders_of_a_release_without_payment_references_are_paid_by_their_id(system: System) -> None:
    async with load(system):
        async with replaced(system, "orders", "former"):
            await finished(system, 40, "status = 'CONFIRMED' and payment_reference is null")
        await finished(system, 40, "status = 'CONFIRMED' and payment_reference is not null")
    evidence = await system.settled()
    without = {str(id_) for id_, order in evidence.orders.items() if order["payment_reference"] is None}
    paid = {id_ for id_ in without if evidence.orders[int(id_)]["status"] == "CONFIRMED"}
    assert {f"order:{id_}" for id_ in paid} <= {row["key"] for row in evidence.movements if row["kind"] == "capture"}
    assert {id_ for id_, value in created(evidence) if "payment_reference" not in value} == without


@pytest.fixture
async def upgradable(system: System) -> System:
    """The system, with the tables of the next releases."""
    system.new_types.add((OrderNoted.topic, OrderNoted.__name__))
    for service in CONSUMERS:
        conn = await asyncpg.connect(system.database_url)
        await conn.execute(f"set search_path to {service}")
        await conn.execute(TABLE)
        await conn.execute(f"grant select, insert on effects_of_next_release to {service}_user")
        await conn.close()
    return system


@asynccontextmanager
async def load(system: System, *, seed: int = 1) -> AsyncIterator[None]:
    """Customers who repeat a request until it is answered: each of their orders is accepted in the end."""
    async with system.customers() as client, Load(client, RATE, seed=seed, give_up=0.0):
        yield
    assert not wrong_answers(client.history)
    assert len(ids(client.history)) == len({call.key for call in client.history if call.kind == "place"})


def replaced(system: System, service: str, release: str = "next") -> AbstractAsyncContextManager[Instance]:
    """Run another release of a service in place of the supervised process."""
    return system.instead(service, module=f"tests.acceptance.releases.{release}_{service}")


async def finished(system: System, count: int, condition: str = "status <> 'PENDING'") -> None:
    """Wait until so many more orders fulfil the condition."""
    sql = f"select count(*) from orders.orders where {condition}"
    [[before]] = await system.rows(sql)

    async def are_enough() -> bool:
        return bool((await system.rows(sql))[0][0] >= before + count)

    await eventually(are_enough, seconds=60, pause=0.1)


async def replay_once(system: System, service: str) -> None:
    """Replay what a former release did not know; all of it is handled, and a second replay finds nothing."""
    wanted = {"error": "unknown_type", "reason": "the next release knows the type", "per_second": 500}
    open_ = f"select id from {service}.parked where resolved_at is null"
    async with system.customers(f"http://127.0.0.1:{system.stack.ports.services[service]}") as admin:
        count = len(await system.rows(open_))
        asked = await admin.administer("POST", "/admin/replay", wanted)
        assert (asked.status, asked.answer["chosen"]) == (202, count)

        async def ended() -> dict[str, Any] | None:
            found = await admin.administer("GET", f"/admin/repairs/{asked.answer['repair']}")
            return found.answer if found.answer.get("ended_at") else None

        repair = await eventually(ended, seconds=60, pause=0.2)
        assert (repair["outcome"], repair["left"]) == (f"{count} handled", [])
        again = await admin.administer("POST", "/admin/replay", wanted)
        assert (again.status, again.answer) == (202, {"chosen": 0})


async def effects_of_notes(system: System) -> Counter[tuple[str, str]]:
    """How often each consumer handled the OrderNoted of each order."""
    found = Counter[tuple[str, str]]()
    for service in CONSUMERS:
        sql = f"select order_id from {service}.effects_of_next_release where type = '{OrderNoted.__name__}'"
        found.update((service, str(order_id)) for [order_id] in await system.rows(sql))
    return found


def noted(evidence: Evidence) -> dict[str, str]:
    """The orders by the ids of their OrderNoted."""
    found = [record for record in evidence.ours if header(record, "ce_type") == OrderNoted.__name__]
    return {header(record, "ce_id"): (record.key or b"").decode() for record in found}


def expected_effects(evidence: Evidence) -> Counter[tuple[str, str]]:
    """One effect of each OrderNoted at each consumer."""
    return Counter((service, order_id) for order_id in noted(evidence).values() for service in CONSUMERS)


def created(evidence: Evidence) -> list[tuple[str, dict[str, Any]]]:
    """The id and the value of each OrderCreated."""
    found = [record for record in evidence.ours if header(record, "ce_type") == "OrderCreated"]
    return [((record.key or b"").decode(), orjson.loads(record.value or b"")) for record in found]


def orders_with_a_gift(evidence: Evidence) -> set[str]:
    return {id_ for id_, value in created(evidence) if "gift" in value}
