"""Postgres is down or frozen: every request is answered in time, a 503 has a true problem type, and it recovers."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import pytest_asyncio

from local import ports
from local.postgres import Postgres
from local.process import Server
from orders.api import BACKEND
from shared.web import database
from tests.builders import eventually
from tests.conftest import ROOT, Database
from tests.lag import Lag
from tests.service.conftest import Client, serving

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

ANSWER_SECONDS = 3.5
"""The promise is 3.1 s. Here the service shares its thread with many clients, whose own work takes time too."""


@pytest.fixture(scope="module")
def own_postgres(run_folder: Path) -> Iterator[tuple[Server, Database]]:
    """A durable server that a test may freeze and kill; yields it and its database."""
    port = ports.free_block(1)
    folder = run_folder / f"mortal-{port}"
    engine = Postgres(folder / "postgres", port)
    engine.remove()
    server = Server(engine, folder)
    server.start()
    database = Database("quickbite", port)
    command = [sys.executable, "-m", "migrations", "up", "--seed"]
    subprocess.run(command, check=True, cwd=ROOT, env=database.migration)  # noqa: S603
    yield server, database
    server.stop()
    engine.remove()


@pytest_asyncio.fixture(loop_scope="module")
async def shop(own_postgres: tuple[Server, Database]) -> AsyncIterator[Client]:
    async with serving(
        "orders", own_postgres[1].url_for("orders"), group_commit_workers=1, require_token=False
    ) as client:
        accepted = await asyncio.gather(*(place(client, "before") for _ in range(350)))  # opens all connections
        assert {status for status, _, _ in accepted} == {202}
        yield client


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """Send SIGSTOP to the postmaster and all its children, as if a disk or hypervisor hangs; SIGCONT at the end."""
    postmaster = psutil.Process(server.pid)
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)


LAG: list[Lag] = []


@pytest.fixture(autouse=True)
def _measured(lag: Lag) -> None:
    LAG.append(lag)


async def timed(answer: Awaitable[Any]) -> tuple[int, dict[str, Any], float]:
    started = time.monotonic()
    got = await answer
    body = await got.json(content_type=None)
    seconds = LAG[-1].elapsed(started)
    if got.status >= 500:
        assert got.content_type == "application/problem+json"
        assert got.headers["Retry-After"]
        assert body["detail"] == "db error"
    return got.status, body, seconds


async def place(client: Client, user: str) -> tuple[int, dict[str, Any], float]:
    return await timed(client.post("/v1/orders", json={"userId": user, "sku": "burger", "quantity": 1}))


Ask = Callable[[Client], Awaitable[Any]]
OTHERS: dict[str, Ask] = {
    "get": lambda client: client.get("/v1/orders/1"),
    "get and wait": lambda client: client.get("/v1/orders/1?wait=1"),
    "list": lambda client: client.get("/v1/orders"),
    "cancel": lambda client: client.post("/v1/orders/1/cancel"),
    "readyz": lambda client: client.get("/readyz"),
}


async def until_healthy(client: Client) -> None:
    async def check() -> bool:
        return (await place(client, "after"))[0] == 202 and (await client.get("/readyz")).status == 200

    await eventually(check)


async def placed_by(client: Client) -> list[str]:
    rows = await client.app[database.POOL].fetch(
        "select user_id, (select count(*) from outbox where key = o.id::text) as published from orders o"
    )
    assert all(row["published"] == 1 for row in rows)
    return [row["user_id"] for row in rows]


async def check_history(client: Client, answers: dict[str, tuple[int, dict[str, Any], float]]) -> None:
    """Check that accepted orders exist once and refused orders do not exist."""
    present = await placed_by(client)
    for user, (status, body, seconds) in answers.items():
        assert seconds < ANSWER_SECONDS
        if status == 202:
            assert present.count(user) == 1
        else:
            assert status == 503
            assert body["type"] in {"/problems/refused", "/problems/outcome-unknown"}
            assert present.count(user) <= (body["type"] != "/problems/refused")


async def test_while_postgres_is_frozen_every_request_gets_a_true_answer_in_time(
    shop: Client, own_postgres: tuple[Server, Database]
) -> None:
    with frozen(own_postgres[0]):
        sent = asyncio.create_task(place(shop, "frozen-sent"))
        await eventually(lambda: _writes(shop))
        waiting = [f"frozen-{n}" for n in range(60)]  # the only worker is busy: these are never sent
        orders, others = await asyncio.gather(
            asyncio.gather(sent, *(place(shop, user) for user in waiting)),
            asyncio.gather(*(timed(ask(shop)) for ask in OTHERS.values() for _ in range(4))),
        )
    assert {status for status, _, _ in others} == {503}
    slowest = sorted(seconds for _, _, seconds in others)[-3:]
    assert slowest[-1] < ANSWER_SECONDS, slowest
    await until_healthy(shop)
    await check_history(shop, dict(zip(("frozen-sent", *waiting), orders, strict=True)))
    kinds = [body["type"] for _, body, _ in orders]
    assert kinds == ["/problems/outcome-unknown", *["/problems/refused"] * len(waiting)]
    assert (await shop.get("/livez")).status == 200


async def test_a_waiting_request_is_answered_at_most_three_seconds_late_when_postgres_freezes(
    shop: Client, own_postgres: tuple[Server, Database]
) -> None:
    _, body, _ = await place(shop, "waits")
    answer = asyncio.create_task(timed(shop.get(f"/v1/orders/{body['id']}?wait=0.5")))
    await eventually(lambda: _waits(shop))
    with frozen(own_postgres[0]):
        status, _, seconds = await answer
    assert (status, seconds < 0.5 + ANSWER_SECONDS) == (503, True)
    await until_healthy(shop)


async def _writes(client: Client) -> bool:
    return bool(client.app[BACKEND].placement._group._taken)


async def _waits(client: Client) -> bool:
    return bool(client.app[BACKEND].waiters._waiting)


async def test_the_service_recovers_from_a_killed_postgres_without_a_500(
    shop: Client, own_postgres: tuple[Server, Database]
) -> None:
    server, _ = own_postgres
    answers: dict[str, tuple[int, dict[str, Any], float]] = {}
    over = asyncio.Event()

    async def load(name: str) -> None:
        n = 0
        while not over.is_set():
            answers[f"{name}-{n}"] = await place(shop, f"{name}-{n}")
            n += 1

    clients = [asyncio.create_task(load(f"killed-{n}")) for n in range(20)]
    await eventually(lambda: _size(answers, 200))
    await asyncio.to_thread(server.kill)
    refused = len(answers)
    others = await asyncio.gather(*(timed(ask(shop)) for ask in OTHERS.values()))
    assert {status for status, _, _ in others} == {503}
    assert max(seconds for _, _, seconds in others) < ANSWER_SECONDS
    await eventually(lambda: _size(answers, refused + 20))
    await asyncio.to_thread(server.start)
    await until_healthy(shop)
    over.set()
    await asyncio.gather(*clients)
    await check_history(shop, answers)


async def test_a_read_only_postgres_is_answered_like_one_that_is_away(
    shop: Client, own_postgres: tuple[Server, Database]
) -> None:
    """It is read-only after a failover, and with a full disk."""
    _, accepted, _ = await place(shop, "writable")
    await set_read_only(own_postgres[1], "on")
    try:
        statuses = [(await place(shop, "read-only"))[0]]
        statuses.append((await timed(shop.post(f"/v1/orders/{accepted['id']}/cancel")))[0])
        assert (await shop.get(f"/v1/orders/{accepted['id']}")).status == 200
    finally:
        await set_read_only(own_postgres[1], "off")
    assert statuses == [503, 503]
    await until_healthy(shop)


async def set_read_only(database: Database, value: str) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute("set default_transaction_read_only = off")
    await admin.execute(f"alter role orders_user set default_transaction_read_only = {value}")
    await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'orders_user'")
    await admin.close()


async def _size(answers: dict[str, Any], least: int) -> bool:
    return len(answers) >= least


async def test_no_order_is_lost_when_postgres_repeatedly_ends_all_connections(
    shop: Client, own_postgres: tuple[Server, Database]
) -> None:
    admin = await asyncpg.connect(own_postgres[1].admin_url)
    answers: dict[str, tuple[int, dict[str, Any], float]] = {}

    async def load(name: str) -> None:
        for n in range(30):
            answers[f"{name}-{n}"] = await place(shop, f"{name}-{n}")

    async def end_them() -> None:
        while True:
            await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'orders_user'")
            await asyncio.sleep(0.05)

    ending = asyncio.create_task(end_them())
    await asyncio.gather(*(load(f"ended-{n}") for n in range(10)))
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await admin.close()
    await until_healthy(shop)
    assert sum(status == 202 for status, _, _ in answers.values()) > 0
    await check_history(shop, answers)
