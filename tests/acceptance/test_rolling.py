"""A deploy loses nothing: services are stopped with SIGTERM under load."""

import asyncio

import pytest

from tests.acceptance.client import Load, ids, steadily, unexpected, wrong_answers
from tests.acceptance.conftest import STOP_SECONDS, System
from tests.acceptance.visitors import WORK


@pytest.mark.parametrize("service", ["inventory", "payments"])
async def test_customers_do_not_notice_a_restart_of_inventory_or_payments(system: System, service: str) -> None:
    async with system.customers() as client, Load(client, per_second=25, give_up=1.0):  # without any retries
        for _ in range(2):
            await asyncio.sleep(0.7)
            assert await system.stop(service) == 0
            await system.start(service)
    await system.settled()
    assert unexpected(client.history, 200, 202, 409) == []
    assert max(system.measured[f"stop {service}"]) < STOP_SECONDS


async def test_restart_of_orders_loses_no_request_when_unanswered_ones_are_retried(system: System) -> None:
    async with (
        system.customers(system.orders_url, keep_alive=False) as client,
        Load(client, per_second=25, give_up=0.0, only_unanswered=True),
    ):
        for _ in range(3):
            await asyncio.sleep(0.7)
            assert await system.stop("orders") == 0
            await system.start("orders")
    await system.settled()
    assert unexpected(client.history, 200, 202, 409, None) == []
    # Connections are refused, except those that the kernel had accepted, but the process had not, when it closed its
    # listener: these are reset.
    reset = [call for call in client.history if call.status is None and call.connected]
    system.measure("resets by restarts", len(reset))
    assert len(reset) <= 3, reset
    assert len(ids(client.history)) == len({call.key for call in client.history if call.kind == "place"})
    assert max(system.measured["stop orders"]) < STOP_SECONDS


async def test_a_second_orders_process_at_the_same_port_replaces_the_first_without_errors(system: System) -> None:
    port = system.stack.ports.orders
    async with system.customers(system.gateway_url) as client, Load(client, per_second=25, give_up=1.0):
        for name in ("orders-2", "orders-3"):
            async with system.instance("orders", name, port=port):
                assert await system.stop("orders") == 0
                await asyncio.sleep(0.5)
                await system.start("orders")
                await asyncio.sleep(0.3)
    await system.settled()
    assert unexpected(client.history, 200, 202, 409) == []
    assert not wrong_answers(client.history)


@pytest.mark.parametrize("service", WORK)
async def test_a_second_process_at_the_same_port_replaces_a_service_without_errors(
    system: System, service: str
) -> None:
    async with system.customers(system.gateway_url) as client:
        actions = await WORK[service](client)
        prepared = len(client.history)
        async with steadily(20, *actions):
            await replaced(system, service)
    await system.settled()
    during = client.history[prepared:]
    assert unexpected(during, 200, 204, lag=system.lag) == []
    assert len(during) > 30


async def replaced(system: System, service: str) -> None:
    """Replace the supervised process with a second one at its port, then start the supervised one again."""
    async with system.instance(service, f"{service}-2", port=system.stack.ports.services[service]):
        await asyncio.sleep(0.3)
        assert await system.stop(service) == 0
        await asyncio.sleep(0.3)
        await system.start(service)
        await asyncio.sleep(0.3)
