"""examples/shipping: its page is followed to the letter, and the service loses and doubles nothing."""

import asyncio
import os
import re
import signal
import sys
import venv
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path

import asyncpg
import pytest
from packaging.requirements import Requirement

from local import ports
from local.postgres import SUPERUSER
from tests.acceptance.conftest import System, running_system, wait_until_ready
from tests.builders import eventually, order_confirmed, order_created, record
from tests.conftest import ROOT, Database
from tests.examples.shop import create_topics, events_by_order, migrate, parcels, publish, values

PAGE_SECONDS = 180
CONFIRMED = "select id from orders.orders where status = 'CONFIRMED'"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # the page is followed three times


@pytest.fixture
def system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    """The shop, to which shipping is added."""
    return running_system("shipping", run_folder, request)


def commands(heading: str) -> list[str]:
    """The shell blocks below a heading of the page."""
    _, _, found = (ROOT / "examples" / "shipping" / "README.md").read_text().partition(f"\n## {heading}\n")
    return re.findall(r"```sh\n(.*?)```", found.partition("\n## ")[0], re.DOTALL)


def database_of(system: System, name: str = "quickbite") -> Database:
    """A database of the stack."""
    return Database(name, system.stack.ports.postgres, system.stack.secret(SUPERUSER))


def addresses(system: System, database: Database, service: str = "shipping") -> dict[str, str]:
    """The variables that the page names."""
    where = system.stack.ports
    return {
        **system.stack.environment(service),
        "ADMIN_DATABASE_URL": database.admin_url,
        "DATABASE_URL": database.url_for(service),
        "AUTH_JWKS_URL": f"http://127.0.0.1:{where.auth}/auth/jwks.json",
        "ORDERS_PORT": str(where.orders),
        "PORT": str(ports.free_block(1)),
    }


async def follow(blocks: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run the blocks in one shell that stops at the first failure."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", "\n".join(blocks)),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(PAGE_SECONDS):
            output, _ = await shell.communicate()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, output.decode()


async def test_the_page_works_beside_the_shop(system: System) -> None:
    shop = database_of(system)
    before = await values(shop, CONFIRMED)

    await follow(commands("Beside QuickBite"), ROOT, addresses(system, shop))

    placed = await values(shop, CONFIRMED) - before
    assert len(placed) == 2
    assert placed <= await parcels(shop)
    assert await events_by_order(system.kafka, placed) == dict.fromkeys(placed, 1)


async def test_the_page_works_in_an_empty_folder(system: System, tmp_path: Path) -> None:
    shop, own = database_of(system), database_of(system, "own")
    conn = await asyncpg.connect(shop.admin_url)
    await conn.execute(f"create database {own.name}")
    await conn.close()
    before = await values(shop, CONFIRMED)
    copy, install, *rest = commands("In an empty folder")
    assert "pip install" in install

    await follow([copy], tmp_path, {"QUICKBITE": str(ROOT)})
    install_without_index(tmp_path)
    await follow(rest, tmp_path, addresses(system, own))
    placed = await values(shop, CONFIRMED) - before
    await follow(commands("Make it yours"), tmp_path, {})
    await follow([one.replace("shipping", "billing") for one in rest], tmp_path, addresses(system, own, "billing"))
    placed_later = await values(shop, CONFIRMED) - before - placed

    assert (len(placed), len(placed_later)) == (1, 1)
    assert placed <= await parcels(own)
    assert placed_later <= await values(own, "select order_id from billing.parcels")
    assert await events_by_order(system.kafka, placed) == dict.fromkeys(placed, 1)


def install_without_index(folder: Path) -> None:
    """What pip would install from the page's requirements, by links to the packages of this run.

    Only these packages can be imported, and each has the version that is pinned.
    """
    venv.create(folder / ".venv", symlinks=True)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    pinned = (folder / "shipping" / "requirements.txt").read_text()
    for one in map(Requirement, re.findall(r"^([a-z0-9].*?)(?: \\)?$", pinned, re.MULTILINE)):
        if one.marker is None or one.marker.evaluate():
            installed = distribution(one.name)
            assert one.specifier.contains(installed.version), f"{one} is pinned, {installed.version} is installed"
            for name in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
                if not (packages / name).exists():
                    (packages / name).symlink_to(installed.locate_file(name))


@asynccontextmanager
async def running(database: Database, kafka: str, port: int, log: Path) -> AsyncIterator[Process]:
    """One process of shipping, until the end of the block."""
    environment = {
        "DATABASE_URL": database.url_for("shipping"),
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "PORT": str(port),
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.shipping"),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        await wait_until_ready(log, process.pid)
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_two_processes_share_a_port_and_a_kill_loses_and_doubles_nothing(
    database: Database, kafka: str, tmp_path: Path
) -> None:
    await migrate(database, "upgrade", "head")
    await create_topics(kafka)
    wanted, port = set(range(1, 1001)), ports.free_block(1)
    confirmed = [record(order_confirmed(order)) for order in wanted]
    again = [record(order_confirmed(order, version=3)) for order in range(1, 101)]  # other events, with other ids
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(running(database, kafka, port, tmp_path / f"{n}.log")) for n in range(2)
        ]

        async def shared() -> bool:
            return len(await values(database, "select owner from shipping.outbox_lanes where owner is not null")) == 2

        await eventually(shared, seconds=30)
        await publish(kafka, [record(order_created(1)), *confirmed[:500], *confirmed[:500], *again])

        async def begun() -> bool:
            return bool(await parcels(database))

        await eventually(begun, seconds=30)
        first.kill()
        await publish(kafka, confirmed)

        async def done() -> bool:
            return await parcels(database) >= wanted

        await eventually(done, seconds=60)
        found = await events_by_order(kafka, wanted)
        second.terminate()
        assert await second.wait() == 0
    assert await parcels(database) == wanted
    assert found == dict.fromkeys(wanted, 1)
    assert not await values(database, "select id from shipping.parked")
