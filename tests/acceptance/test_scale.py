"""Two instances of a service share the work, and one of them may be killed."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from tests.acceptance.checker import SERVICES
from tests.acceptance.client import Load, ids, wrong_answers
from tests.acceptance.conftest import System
from tests.builders import eventually


async def lane_owners(system: System, service: str) -> set[str]:
    """The instances that have leases of a service's outbox lanes now."""
    conn = await asyncpg.connect(system.database_url)
    try:
        rows = await conn.fetch(f"select owner from {service}.outbox_lanes where lease_until > now()")
    finally:
        await conn.close()
    return {row["owner"].split("/")[0] for row in rows}


async def members(system: System, service: str) -> int:
    """The number of members with partitions in a service's consumer group."""
    admin = AIOKafkaAdminClient(**system.kafka.options())
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([service])
        (group,) = answer.groups
        _, _, state, _, _, found, *_ = group
    finally:
        await admin.close()
    return sum(len(member[-1]) > 10 for member in found) if state == "Stable" else 0


async def test_two_instances_share_the_work_and_one_of_them_can_be_killed(system: System) -> None:
    async with AsyncExitStack() as stack:
        second = {
            service: await stack.enter_async_context(system.instance(service, f"{service}-2")) for service in SERVICES
        }
        for service in SERVICES:

            async def shared(service: str = service) -> bool:
                both = {f"{service}-1", f"{service}-2"}
                return await lane_owners(system, service) == both and await members(system, service) == 2

            await eventually(shared, seconds=30, pause=0.3)
        urls = (system.orders_url, second["orders"].url)
        client = await stack.enter_async_context(system.customers(*urls))
        async with Load(client, per_second=25):
            await asyncio.sleep(4)
            for service in ("inventory", "payments", "orders"):
                second[service].kill()
                await asyncio.sleep(2)
            await asyncio.sleep(2)
        evidence = await system.settled()
        for service in SERVICES:
            assert await lane_owners(system, service) == {f"{service}-1"}
    assert not wrong_answers(client.history)
    assert len(ids(client.history)) > 200
    assert len({record.partition for record in evidence.records if record.topic == "orders.events"}) == 4


async def test_parts_of_a_service_can_run_in_separate_processes(system: System) -> None:
    async with AsyncExitStack() as stack:
        for service, *parts in (
            ("orders", "api,relay", "consumer,worker"),
            ("inventory", "relay", "consumer"),
            ("payments", "relay", "consumer,worker"),
        ):
            first, second = parts
            await stack.enter_async_context(system.instead(service, "--only", first))
            await stack.enter_async_context(system.instance(service, f"{service}-2", "--only", second))
        client = await stack.enter_async_context(system.customers())
        await Load(client, per_second=40).run(80)
        await system.settled()
    assert not wrong_answers(client.history)
    assert len(ids(client.history)) == 80
