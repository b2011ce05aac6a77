"""The button that stops payments: a real supervisord, and a program that is really frozen."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp.test_utils import TestClient, TestServer

from local.process import Program
from local.supervisor import Supervisor
from local.supervisor import socket as socket_of
from shared.delivery.kafka import Brokers
from shared.errors import Unavailable
from storefront import app, outage, pages
from storefront.config import Settings
from storefront.outage import Outage
from tests.builders import eventually
from tests.service.conftest import NO_KAFKA, Client

OWN = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    folder = tmp_path_factory.mktemp("supervised")
    made = Supervisor(
        folder, {"services": [Program("payments", [sys.executable, "-c", "import time; time.sleep(600)"])]}
    )
    made.start()
    try:
        made.start_program("payments")
        yield made
    finally:
        made.shutdown()
        made.remove()


@pytest.fixture
def payments(supervisor: Supervisor) -> Iterator[psutil.Process]:
    process = psutil.Process(supervisor.processes()["payments"]["pid"])
    yield process
    process.resume()


@asynccontextmanager
async def storefront(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5
) -> AsyncIterator[Client]:
    monkeypatch.setattr(outage, "_LOOK_SECONDS", 0.05)
    settings = Settings(supervisor_socket=str(socket_of(supervisor.root)))
    async with TestClient(TestServer(app.create_app(settings, Brokers(NO_KAFKA)))) as client:
        found = running(client)
        found.seconds = seconds
        await eventually(lambda: is_over(found))
        yield client


def running(client: Client) -> Outage:
    found = client.app[pages.BACKEND].outage
    assert isinstance(found, Outage)
    return found


async def is_over(found: Outage) -> bool:
    return not found.is_on


async def stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


async def awake(process: psutil.Process) -> bool:
    return process.status() != psutil.STATUS_STOPPED


async def stop(client: Client, **headers: str) -> int:
    async with client.post("/shop/outage", headers=OWN | headers, allow_redirects=False) as answer:
        return answer.status


async def test_payments_stops_and_comes_back_by_itself(
    supervisor: Supervisor, payments: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storefront(supervisor, monkeypatch) as client:
        assert "Stop payments for 0 s" in await (await client.get("/")).text()
        assert await stop(client) == 303
        await eventually(lambda: stopped(payments))
        assert "payments is stopped" in await (await client.get("/")).text()
        await eventually(lambda: awake(payments))
        await eventually(lambda: is_over(running(client)))


async def test_there_is_one_outage_at_a_time(
    supervisor: Supervisor, payments: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storefront(supervisor, monkeypatch, seconds=60) as client:
        found = sorted(await asyncio.gather(*(stop(client) for _ in range(5))))
        assert found == [303, 409, 409, 409, 409]
    assert await awake(payments)  # the end of the storefront is the end of the outage


async def test_a_storefront_that_starts_wakes_what_an_earlier_one_left(
    supervisor: Supervisor, payments: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    payments.suspend()
    async with storefront(supervisor, monkeypatch):
        await eventually(lambda: awake(payments))


async def test_if_supervisord_does_not_answer_payments_is_woken_later_and_not_stopped_again(
    supervisor: Supervisor, payments: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storefront(supervisor, monkeypatch, seconds=0.1) as client:
        found = running(client)
        sent = found._supervisord.signal

        async def deaf(name: str, what: str) -> None:
            if what == "CONT":
                raise Unavailable("supervisord does not answer")
            await sent(name, what)

        monkeypatch.setattr(found._supervisord, "signal", deaf)
        assert await stop(client) == 303
        await eventually(lambda: stopped(payments))
        assert await stop(client) == 409
        monkeypatch.setattr(found._supervisord, "signal", sent)
        await eventually(lambda: awake(payments))


@pytest.mark.parametrize("address", ["192.0.2.7", "::ffff:192.0.2.7", "nonsense"])
async def test_a_visitor_of_another_machine_cannot_stop_payments(
    supervisor: Supervisor, payments: psutil.Process, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async with storefront(supervisor, monkeypatch) as client:
        assert await stop(client, **{"X-Real-IP": address}) == 404
        page = await (await client.get("/", headers={"X-Real-IP": address})).text()
        assert "/shop/outage" not in page
        assert await awake(payments)


async def test_a_dead_supervisord_is_named_and_nothing_hangs(tmp_path: Path) -> None:
    settings = Settings(supervisor_socket=str(tmp_path / "none"))
    async with TestClient(TestServer(app.create_app(settings, Brokers(NO_KAFKA)))) as client:
        assert await stop(client) == 409  # whether payments runs is not known
