"""Connections and transactions: every wait has a bound, and errors are classified."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from migrations import passwords
from shared import postgres
from shared.postgres import connections
from shared.postgres.transactions import transaction
from shared.process.configuration import with_secret
from tests.builders import eventually
from tests.conftest import Database

Ask = Callable[[str, str], Awaitable[object]]


async def ask_pool(url: str, sql: str) -> object:
    async with postgres.pool(url, size=2, name="test") as pool, pool.acquire() as conn:
        return await conn.fetchval(sql)


async def ask_connection(url: str, sql: str) -> object:
    conn = await postgres.connect(url)
    try:
        return await conn.fetchval(sql)
    finally:
        conn.terminate()


both = pytest.mark.parametrize("ask", [ask_pool, ask_connection])


@both
async def test_a_statement_ends_after_its_bound(database: Database, monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    monkeypatch.setattr(connections, "STATEMENT_SECONDS", 0.2)
    async with asyncio.timeout(20):
        with pytest.raises(TimeoutError):
            await ask(database.url_for("orders"), "select pg_sleep(600)")


@both
@pytest.mark.parametrize(("setting", "bound"), [("statement_timeout", "2400ms"), ("lock_timeout", "2s")])
async def test_the_server_has_its_own_bounds(database: Database, ask: Ask, setting: str, bound: str) -> None:
    """They also hold if this process is frozen or gone."""
    assert await ask(database.url_for("orders"), f"show {setting}") == bound


@both
async def test_the_server_ends_idle_transactions(database: Database, ask: Ask) -> None:
    shown = await ask(database.url_for("orders"), "show idle_in_transaction_session_timeout")
    assert shown == "3s"


@pytest.mark.parametrize(
    ("state", "is_transient", "is_unavailable"),
    [
        ("08006", True, True),  # connection failure
        ("57P01", True, True),  # admin shutdown
        ("57P03", True, True),  # cannot connect now
        ("53300", True, True),  # too many connections
        ("53100", True, True),  # disk full
        ("57014", True, True),  # query cancelled
        ("25P03", True, True),  # idle in transaction timeout: the connection is gone, the event is innocent
        ("40P01", True, False),  # deadlock
        ("40001", True, False),  # serialization failure
        ("55P03", True, False),  # lock not available
        ("23505", False, False),  # unique violation
        ("22003", False, False),  # numeric value out of range
    ],
)
def test_errors_of_postgres_are_classified(state: str, is_transient: bool, is_unavailable: bool) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "message"})
    assert (postgres.is_transient(error), postgres.is_unavailable(error)) == (is_transient, is_unavailable)


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(), asyncpg.InterfaceError("closed")])
def test_a_lost_connection_is_transient(error: Exception) -> None:
    assert postgres.is_transient(error)


def test_a_wrong_argument_is_not_transient() -> None:
    assert not postgres.is_transient(asyncpg.DataError("invalid input"))


async def test_a_second_transaction_waits_for_the_locks_of_its_keys(database: Database) -> None:
    order: list[str] = []
    async with postgres.pool(database.url_for("orders"), size=3, name="test") as pool:

        async def second() -> None:
            async with transaction(pool, ["b", "c"]):
                order.append("second")

        async with transaction(pool, ["a", "b"]):
            waiting = asyncio.create_task(second())
            blocked = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
            await eventually(lambda: pool.fetchval(blocked))
            order.append("first")
        await waiting
    assert order == ["first", "second"]


async def test_the_use_of_a_pool_is_measured_while_it_is_open(database: Database) -> None:
    named = {"db_client_connection_pool_name": "seen"}

    def read() -> list[float | None]:
        return [
            REGISTRY.get_sample_value(f"db_client_connection_{name}", {**named, **state})
            for name, state in (
                ("count", {"db_client_connection_state": "used"}),
                ("count", {"db_client_connection_state": "idle"}),
                ("max", {}),
                ("pending_requests", {}),
            )
        ]

    async with postgres.pool(database.url_for("orders"), size=1, name="seen") as pool:
        assert read() == [0, 0, 1, 0]
        async with pool.acquire():
            waiting = asyncio.create_task(pool.fetchval("select 1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert read() == [1, 0, 1, 1]
        await waiting
        assert read() == [0, 1, 1, 0]
    assert read() == [None] * 4


async def test_connections_take_a_rotated_password_from_its_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "database_password"
    file.write_text("made at the start")
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path))
    # A role of its own: the other tests of this server use those of the services.
    role = f"rotated_{uuid4().hex[:8]}"
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute(f"create role {role} login password 'made at the start'")
    address = f"postgresql://{role}@127.0.0.1:{database.port}/{database.name}?application_name=x"
    url = with_secret(address, "database_password", SecretStr("made at the start"))
    try:
        async with postgres.pool(url, size=2, name="test") as pool, pool.acquire() as early:
            for _ in range(5):
                async with asyncio.TaskGroup() as group:
                    group.create_task(passwords.rotate(database.admin_url, role, file))
                    for _ in range(3):
                        group.create_task(ask_connection(url, "select 1"))
            file.write_text("the server has it later")
            connecting = asyncio.create_task(ask_connection(url, "select 1"))
            await asyncio.sleep(0.2)
            await admin.execute(f"alter role {role} password 'the server has it later'")
            assert await connecting == 1
            async with pool.acquire() as late:
                assert await late.fetchval("select current_user") == role
            assert await early.fetchval("select current_user") == role
        with pytest.raises(asyncpg.InvalidPasswordError):
            await postgres.connect(with_secret(address, "database_password", SecretStr("made at the start")))
    finally:
        await admin.execute(f"drop role {role}")
        await admin.close()


async def test_a_wrong_password_in_a_file_is_an_error_soon(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "wrong"
    file.write_text("wrong")
    url = f"postgresql://orders_user@127.0.0.1:{database.port}/{database.name}?password_file={file}"
    async with asyncio.timeout(10):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await postgres.connect(url)
