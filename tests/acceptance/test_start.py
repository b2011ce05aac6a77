"""What a person sees after `make up`: quiet logs, the demo, and settings that a restart changes."""

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from aiohttp import ClientSession

from contracts.access import READER
from local.console import Viewers
from shared.process.lines import parse
from tests import arrows
from tests.acceptance.conftest import System, auth_mint, running_system
from tests.acceptance.people import ADMIN_PASSWORD, PASSWORD
from tests.builders import eventually
from tests.conftest import ROOT

TROUBLE = {"warning", "error", "critical"}
SHORT = {("gateway", "console"), ("gateway", "storefront")}
"""For these two, nginx opens a connection for each request, which is too short to be seen each time."""
BUSY = 4.0
"""A start is not healthy if so many programs for each core want to run: the limits of their waits end."""


@pytest.fixture
async def fresh(run_folder: Path, request: pytest.FixtureRequest) -> System:
    """A stack with a console, which nobody has used before the first test."""
    system = running_system("start", run_folder, request, Viewers())
    system.is_history_complete = False
    system.mint = await auth_mint(system.database_url)
    return system


def trouble(system: System) -> list[str]:
    """Every line of a log that is more than information."""
    return [
        f"{file.stem}: {line.text}"
        for file in sorted((system.stack.root / "logs").glob("*.log"))
        for raw in file.read_bytes().splitlines()
        if (line := parse(raw, file.stem, time.time_ns())).level in TROUBLE
    ]


def demo(system: System) -> list[str]:
    """The output of `make demo`."""
    where = {f"{name.upper()}_PORT": str(port) for name, port in asdict(system.stack.ports).items()}
    environment = {**os.environ, **where, **system.stack.kafka_client(READER), "ADMIN_PASSWORD": ADMIN_PASSWORD}
    command = [sys.executable, "-m", "quickbite", "demo"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=ROOT)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


async def test_a_healthy_start_and_its_first_orders_log_no_warning(fresh: System) -> None:
    shown = await asyncio.to_thread(demo, fresh)
    assert [line.split(": ")[1] for line in shown if line.startswith("order ")] == [
        "2 burgers",
        "1 lobster",
        "100 sushi",
    ]
    assert len([line for line in shown if " ms  CONFIRMED " in line or " ms  CANCELLED " in line]) == 3
    found = trouble(fresh)
    if found and os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
        pytest.skip(f"the machine is too busy for a healthy start: {found[:3]}")
    assert found == []
    await fresh.settled()


async def test_a_restart_changes_the_settings_of_a_service(fresh: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_DECLINE_RATIO", "1")
    await asyncio.to_thread(fresh.stack.restart, ["payments"])
    assert await an_order(fresh) == ("CANCELLED", "payment_declined")
    monkeypatch.delenv("PROVIDER_DECLINE_RATIO")
    await fresh.crash("payments")
    assert await an_order(fresh) == ("CANCELLED", "payment_declined")
    await asyncio.to_thread(fresh.stack.restart, ["payments"])
    assert await an_order(fresh) == ("CONFIRMED", None)
    await fresh.settled()


async def test_the_network_policies_have_exactly_the_connections_of_a_running_stack(fresh: System) -> None:
    wanted = arrows.allowed() - SHORT

    async def is_complete() -> bool:
        await use_everything(fresh)
        return fresh.connections >= wanted

    with suppress(TimeoutError):  # the difference says more
        await eventually(is_complete, seconds=30, pause=arrows.EVERY_SECONDS)
    assert wanted - fresh.connections == set(), "no program uses these arrows"


async def use_everything(system: System) -> None:
    """Order at the shop's page, register, change a product, add stock, and read something of every other service."""
    gateway = system.gateway_url
    assert system.mint is not None
    async with ClientSession(headers=system.mint.admin) as admin, ClientSession() as visitor:
        login = {"username": "arrows", "password": PASSWORD}
        order = {"product_id": "1", "quantity": "1"}
        requests = [
            admin.post(f"{gateway}/auth/register", json=login),
            admin.patch(f"{gateway}/products/3", json={"name": "Fries"}),
            admin.patch(f"{gateway}/users/me", json={"email": "admin@example.com"}),
            admin.post(f"{gateway}/inventory/burger/restock", json={"quantity": 1}),
            *(admin.get(f"{gateway}{path}") for path in ("/orders/1", "/users/1", "/payments/1", "/console/login")),
            visitor.get(f"{gateway}/"),
            visitor.post(f"{gateway}/shop/orders", data=order, headers={"Origin": gateway}),
        ]
        for request in requests:
            async with request as answer:
                assert answer.status < 500, (answer.url, await answer.text())


async def an_order(system: System) -> tuple[str, str | None]:
    """How an order of one burger ends."""
    async with system.customers(system.orders_url) as client:
        placed = await client.place({"userId": "u1", "sku": "burger", "quantity": 1})
        seen = await client.follow(placed.answer["id"])
    return seen["status"], seen.get("reason")
