"""How auth starts and changes: the administrator's password, processes that start together, and key rotation."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import jwt
import pytest

from shared.web import verification
from tests.builders import eventually
from tests.conftest import ROOT, Database
from tests.service.conftest import Client, serving

PASSWORD, TOO_SHORT = "password", "hunter2"


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Any]:
    made = await asyncpg.connect(database.url_for("auth"))
    yield made
    await made.close()


async def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run `python -m auth` until it ends; return its exit status, stdout and stderr."""
    ours = {name: value for name, value in os.environ.items() if name not in ("ADMIN_PASSWORD", "DATABASE_URL")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "auth", *arguments],
        cwd=ROOT,
        env=ours | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


async def post(client: Client, path: str, **body: str) -> tuple[int, dict[str, Any]]:
    answer = await client.post(f"/auth/{path}", json=body)
    return answer.status, await answer.json(content_type=None)


async def log_in(client: Client, password: str = PASSWORD) -> dict[str, Any]:
    """Log in as the administrator, as soon as the administrator exists with this password."""

    async def logged_in() -> dict[str, Any] | None:
        status, found = await post(client, "login", username="admin", password=password)
        assert status in (200, 401, 503)
        return found if status == 200 else None

    found: dict[str, Any] = await eventually(logged_in, pause=0.2)
    return found


async def validated(client: Client, token: str) -> int:
    return (await client.get("/auth/validate", headers={"Authorization": f"Bearer {token}"})).status


async def published(client: Client) -> list[str]:
    return [key["kid"] for key in (await (await client.get("/auth/jwks.json")).json())["keys"]]


def signed_by(tokens: dict[str, Any]) -> str:
    return str(jwt.get_unverified_header(tokens["token"])["kid"])


async def test_auth_does_not_start_without_the_administrators_password_and_prints_no_password() -> None:
    missing, empty, short, other = await asyncio.gather(
        run(),
        run(ADMIN_PASSWORD=""),
        run(ADMIN_PASSWORD=TOO_SHORT),
        run("rotate-keys", ADMIN_PASSWORD=TOO_SHORT, PORT="x"),
    )
    for status, out, error in (missing, empty, short, other):
        assert (status, out, error.count("\n")) == (1, "", 1), error
        assert "ADMIN_PASSWORD" in error
        assert "Traceback" not in error
        assert TOO_SHORT not in error
    assert "ADMIN_PASSWORD must be set" in missing[2]
    assert missing == empty
    assert "PORT" in other[2]


async def test_two_processes_that_start_at_once_create_one_administrator_and_one_key(
    database: Database, conn: Any
) -> None:
    async with AsyncExitStack() as stack:
        both = [serving("auth", database.url_for("auth")) for _ in range(2)]
        clients = await asyncio.gather(*(stack.enter_async_context(one) for one in both))
        await asyncio.gather(*map(log_in, clients))
        kids = [await published(client) for client in clients]
    assert kids[0] == kids[1]
    assert len(kids[0]) == 1
    for table in ("credentials", "signing_keys", "outbox"):
        assert await conn.fetchval(f"select count(*) from {table}") == 1, table


async def test_another_password_at_the_next_start_replaces_the_old_one_and_ends_its_sessions(
    database: Database, conn: Any
) -> None:
    url = database.url_for("auth")
    async with serving("auth", url) as client:
        old = await log_in(client)
    async with serving("auth", url) as client:  # the same password changes nothing
        await log_in(client)
        status, old = await post(client, "refresh", refresh_token=old["refresh_token"])
        assert status == 200
    async with serving("auth", url, admin_password="another password") as client:
        await log_in(client, "another password")
        assert (await post(client, "login", username="admin", password="password"))[0] == 401
        assert (await post(client, "refresh", refresh_token=old["refresh_token"]))[0] == 401

        async def over() -> bool:
            return await validated(client, old["token"]) == 401

        await eventually(over)
    assert await conn.fetchval("select count(*) from credentials") == 1


async def test_a_new_key_is_published_before_it_signs_and_the_old_key_also_afterwards(
    database: Database, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_REFRESH_SECONDS", 0.2)
    url = database.url_for("auth")
    async with serving("auth", url) as client:
        before = await log_in(client)
        old = signed_by(before)
        status, out, error = await run(
            "rotate-keys", ADMIN_PASSWORD="password", DATABASE_URL=url, KEY_LEAD_SECONDS="600", VISITORS="true"
        )
        assert (status, error) == (0, "")
        kid = await conn.fetchval("select kid from signing_keys where kid <> $1", old)
        assert out == f"key {kid} is published, and signs after 600 s\n"
        await eventually(lambda: is_published(client, {old, kid}))
        assert signed_by(await log_in(client)) == old

        lead, outlives = await conn.fetchrow(
            "select extract(epoch from n.signs_from - now()), extract(epoch from o.expires_at - n.signs_from) "
            "from signing_keys n, signing_keys o where n.kid = $1 and o.kid = $2",
            *(kid, old),
        )
        assert 500 < lead <= 600
        assert outlives >= 3600  # tokens of visitors

        await conn.execute("update signing_keys set signs_from = now() where kid = $1", kid)

        async def new_one_signs() -> dict[str, Any] | None:
            tokens = await log_in(client)
            return tokens if signed_by(tokens) == kid else None

        after = await eventually(new_one_signs, pause=0.2)
        assert set(await published(client)) == {old, kid}
        assert [await validated(client, tokens["token"]) for tokens in (before, after)] == [204, 204]

        await conn.execute("update signing_keys set expires_at = now() where kid = $1", old)
        await eventually(lambda: is_published(client, {kid}))

        async def is_refused() -> bool:
            return await validated(client, before["token"]) == 401

        await eventually(is_refused)
        assert await validated(client, after["token"]) == 204


async def is_published(client: Client, kids: set[str]) -> bool:
    return set(await published(client)) == kids
