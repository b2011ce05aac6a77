"""One process: how it stops, and that it always stops."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import asyncpg
import pytest

from local import ports
from shared import service as service_module
from shared.process import tasks as tasks_module
from shared.process.loop import Beat
from shared.process.tasks import Tasks
from tests.builders import eventually
from tests.conftest import ROOT, Database

SERVICE = """
import asyncio, time
from shared import service
from shared.process import tasks
from shared.process.configuration import Settings
from shared.web import application, health

async def ends(stop, beat):
    await asyncio.sleep(0.2)

async def fails(stop, beat):
    raise LookupError("because")

async def waits(stop, beat):
    await stop.wait()

async def ignores(stop, beat):
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if stop.is_set():
                raise

async def blocks(stop, beat):
    await asyncio.sleep(0.2)
    time.sleep(60)

def create_app(settings):
    app = application.create()
    async def lifespan(app):
        end = app[health.TASKS].start("the {task} task", {task})
        yield
        await end()
    app.cleanup_ctx.append(lifespan)
    return app

tasks.HANG_SECONDS = {hang}
tasks.DRAIN_SECONDS = 0.5
service.run(create_app, Settings, "test")
"""


@contextmanager
def running(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: S603  # our own programs
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def service(task: str, hang: float = 30) -> list[str]:
    return ["-c", SERVICE.replace("{task}", task).replace("{hang}", str(hang))]


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = await asyncio.to_thread(process.communicate, None, 15)
    return process.returncode, output


@pytest.mark.parametrize("task", ["ends", "fails"])
async def test_when_a_task_ends_the_process_ends_and_names_it(task: str) -> None:
    with running(service(task), PORT=str(ports.free_block(1))) as process:
        code, output = await ended(process)

    assert code == 1
    assert f"the {task} task" in output
    assert ("LookupError" in output) is (task == "fails")


@pytest.mark.parametrize("event_loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("task", ["waits", "ignores"])
async def test_sigterm_ends_the_process_without_an_error_even_if_a_task_ignores_it(task: str, event_loop: str) -> None:
    port = ports.free_block(1)
    with running(service(task), PORT=str(port), EVENT_LOOP=event_loop) as process:
        await eventually(lambda: answers(port, "/healthz"))
        process.send_signal(signal.SIGTERM)
        code, output = await ended(process)

    assert code == 0, output
    assert "stopped" in output


async def test_the_watchdog_ends_a_process_whose_event_loop_is_blocked() -> None:
    with running(service("blocks", hang=0.6), PORT=str(ports.free_block(1))) as process:
        code, output = await ended(process)

    assert code == 70, output
    assert "the event loop hangs" in output


async def test_a_wrong_setting_ends_the_process_with_a_line_that_names_it() -> None:
    with running(["-m", "orders"], PORT="many") as process:
        code, output = await ended(process)

    assert code == 1
    assert output.strip().splitlines()[-1].startswith("wrong setting: PORT")


async def test_a_service_stops_within_ten_seconds_after_sigterm_and_releases_its_lanes(
    database: Database, shop_topics: str
) -> None:
    port = ports.free_block(1)
    url = database.url_for("orders")
    environment = {"PORT": str(port), "DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": shop_topics}
    with running(["-m", "orders"], **environment) as process:
        await eventually(lambda: answers(port, "/readyz"))
        await eventually(lambda: holds_lanes(database))
        process.send_signal(signal.SIGTERM)
        code, output = await ended(process)

    assert code == 0, output
    assert not await holds_lanes(database)


async def test_a_service_starts_and_stops_without_postgres_and_kafka() -> None:
    port, nothing = ports.free_block(1), ports.free_block(1)
    environment = {"PORT": str(port), "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nothing}"}
    with running(["-m", "orders"], **environment) as process:
        await eventually(lambda: answers(port, "/healthz"))
        assert not await answers(port, "/readyz")
        process.send_signal(signal.SIGTERM)
        code, output = await ended(process)

    assert code == 0, output


async def answers(port: int, path: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def holds_lanes(database: Database) -> bool:
    conn = await asyncpg.connect(database.url_for("orders"))
    held = await conn.fetchval("select exists (select from outbox_lanes where owner is not null)")
    await conn.close()
    return bool(held)


async def test_a_task_without_a_beat_is_reported_as_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks_module, "HANG_SECONDS", 0.05)
    tasks = Tasks()

    async def hangs(stop: asyncio.Event, beat: Beat) -> None:
        await stop.wait()

    async def beats(stop: asyncio.Event, beat: Beat) -> None:
        while not stop.is_set():
            beat()
            await asyncio.sleep(0.01)

    ends = [tasks.start("hangs", hangs), tasks.start("beats", beats)]

    async def is_hanging() -> bool:
        return tasks.hanging() == ["hangs"]

    await eventually(is_hanging, seconds=2)
    for end in ends:
        await end()
    assert tasks.hanging() == []
    assert not tasks.ended.is_set()


async def test_a_draining_process_answers_on_idle_connections_until_their_clients_close_them() -> None:
    """Without this, nginx loses a request that it sends while the process closes all idle connections."""
    port = ports.free_block(1)
    patient = service("waits")
    patient[1] = patient[1].replace("service.run(", "service.LINGER_SECONDS = 600\nservice.run(")
    with running(patient, PORT=str(port)) as process:
        await eventually(lambda: answers(port, "/healthz"))
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in idle:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert b"ok" in await reader.readuntil(b"ok")
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: refuses(port))
        await asyncio.sleep(1.0)  # nginx needs that long to close its idle connections

        for reader, writer in idle:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: shop\r\n\r\n")
            answer = await reader.read()  # until the server closes
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert b"connection: close" in answer.lower()
            writer.close()
        code, output = await ended(process)  # at once, and not after LINGER_SECONDS

    assert code == 0, output


async def refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def test_nginx_closes_idle_connections_before_a_draining_process_does() -> None:
    upstreams = re.findall(r"upstream \w+ .*keepalive_timeout (\d+)s; }", (ROOT / "gateway" / "nginx.conf").read_text())
    assert len(upstreams) == 8
    assert {int(seconds) for seconds in upstreams} == {1}
    assert service_module.LINGER_SECONDS >= 2 * 1
