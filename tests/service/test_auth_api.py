"""Login and sessions: tokens, refresh with rotation, logout, and what is public of keys and sessions."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import jwt
import pytest

from tests.builders import eventually
from tests.conftest import Database
from tests.service.conftest import Client, Serve

ADMIN = {"username": "admin", "password": "password"}
ANN = {"username": "ann", "password": "correct horse"}


@pytest.fixture
async def auth(serve: Serve) -> Client:
    client = await serve("auth")

    async def admin_exists() -> bool:
        return (await post(client, "login", ADMIN))[0] == 200

    await eventually(admin_exists)
    return client


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Any]:
    made = await asyncpg.connect(database.url_for("auth"))
    yield made
    await made.close()


async def post(client: Client, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    answer = await client.post(f"/auth/{path}", data=json.dumps(body), headers=headers)
    return answer.status, (await answer.json(content_type=None) if answer.content_length else {})


async def validate(client: Client, token: str) -> tuple[int, str | None, str | None]:
    answer = await client.get("/auth/validate", headers={"Authorization": f"Bearer {token}"})
    return answer.status, answer.headers.get("X-User-Id"), answer.headers.get("X-User-Roles")


async def test_the_administrator_can_log_in(auth: Client) -> None:
    status, tokens = await post(auth, "login", ADMIN)
    assert (status, tokens["token_type"], tokens["expires_in"]) == (200, "Bearer", 900)
    status, user_id, roles = await validate(auth, tokens["token"])
    assert (status, roles) == (204, "admin")
    assert user_id == jwt.decode(tokens["token"], options={"verify_signature": False})["sub"]


async def test_a_user_registers_once_and_has_no_roles(auth: Client) -> None:
    status, made = await post(auth, "register", ANN)
    assert (status, made["username"]) == (201, "ann")
    assert (await post(auth, "register", ANN))[0] == 409
    _, tokens = await post(auth, "login", ANN)
    assert await validate(auth, tokens["token"]) == (204, str(made["id"]), "")


async def test_a_wrong_password_and_an_unknown_user_get_the_same_401(auth: Client) -> None:
    wrong = await post(auth, "login", ADMIN | {"password": "passwort"})
    unknown = await post(auth, "login", {"username": "nobody", "password": "passwort"})
    assert wrong == unknown
    assert wrong == (401, {**wrong[1], "detail": "wrong username or password"})


async def refresh(client: Client, tokens: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    return await post(client, "refresh", {"refresh_token": tokens["refresh_token"]}, **headers)


async def assert_over(client: Client, tokens: dict[str, Any]) -> None:
    assert (await refresh(client, tokens))[0] == 401

    async def over() -> bool:
        return (await validate(client, tokens["token"]))[0] == 401

    await eventually(over)


async def test_a_refresh_token_is_valid_once_and_its_reuse_after_10_s_ends_the_session(auth: Client, conn: Any) -> None:
    _, first = await post(auth, "login", ADMIN)
    status, second = await refresh(auth, first)
    assert status == 200
    await conn.execute("update sessions set refreshed_at = now() - interval '11 seconds'")
    assert (await refresh(auth, first))[0] == 401
    await assert_over(auth, second)


async def test_a_refresh_whose_answer_was_lost_can_be_repeated_and_returns_the_same_successor(auth: Client) -> None:
    _, first = await post(auth, "login", ADMIN)
    _, lost = await refresh(auth, first)
    for _ in range(3):
        status, again = await refresh(auth, first)
        assert (status, again["refresh_token"]) == (200, lost["refresh_token"])
        assert (await validate(auth, again["token"]))[0] == 204
    status, third = await refresh(auth, lost)
    assert (status, third["refresh_token"] != lost["refresh_token"]) == (200, True)


async def test_a_refresh_cannot_be_repeated_after_its_successor_was_used(auth: Client) -> None:
    _, first = await post(auth, "login", ADMIN)
    _, second = await refresh(auth, first)
    _, third = await refresh(auth, second)
    assert (await refresh(auth, first))[0] == 401
    await assert_over(auth, third)


@pytest.mark.parametrize("thief", [{"User-Agent": "another"}, {"Cookie": "device=another"}])
async def test_a_refresh_that_another_device_repeats_ends_the_session(auth: Client, thief: dict[str, str]) -> None:
    owner = {"User-Agent": "a browser", "Cookie": "device=the.owners"}
    _, first = await post(auth, "login", ADMIN)
    _, second = await refresh(auth, first, **owner)
    assert (await refresh(auth, first, **owner))[0] == 200
    assert (await refresh(auth, first, **(owner | thief)))[0] == 401
    await assert_over(auth, second)


async def test_many_refreshes_at_once_by_one_device_return_one_successor(auth: Client) -> None:
    _, first = await post(auth, "login", ADMIN)
    answers = await asyncio.gather(*(refresh(auth, first) for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert len({found["refresh_token"] for _, found in answers}) == 1


async def test_the_database_does_not_reveal_refresh_tokens(auth: Client, conn: Any) -> None:
    _, first = await post(auth, "login", ADMIN)
    _, second = await refresh(auth, first)
    (row,) = await conn.fetch("select * from sessions where rotated_by is not null")
    stored = [value for value in row.values() if isinstance(value, bytes)]
    assert len(stored) == 3
    session_id = second["refresh_token"].partition(".")[0]
    for value in stored:
        for secret in (value.hex(), urlsafe_b64encode(value).decode().rstrip("=")):
            assert secret not in second["refresh_token"]
            assert (await refresh(auth, {"refresh_token": f"{session_id}.{secret}"}, Cookie="device=thief"))[0] == 401
            await conn.execute("update sessions set revoked_at = null")
    assert (await refresh(auth, second))[0] == 200


async def test_after_logout_neither_token_is_valid(auth: Client) -> None:
    _, tokens = await post(auth, "login", ADMIN)
    for _ in range(2):
        assert (await post(auth, "logout", {"refresh_token": tokens["refresh_token"]}))[0] == 204
    assert (await post(auth, "refresh", {"refresh_token": tokens["refresh_token"]}))[0] == 401

    async def over() -> bool:
        return (await validate(auth, tokens["token"]))[0] == 401

    await eventually(over)


@pytest.mark.parametrize("token", ["", "x", ".", "x.y", "0" * 32, "0" * 32 + ".x", "\u0661" * 32 + ".x"])
async def test_an_invalid_refresh_token_is_401(auth: Client, token: str) -> None:
    assert (await post(auth, "refresh", {"refresh_token": token}))[0] == 401
    assert (await post(auth, "logout", {"refresh_token": token}))[0] == 204


async def test_access_and_refresh_tokens_cannot_replace_each_other(auth: Client) -> None:
    _, tokens = await post(auth, "login", ADMIN)
    assert (await post(auth, "refresh", {"refresh_token": tokens["token"]}))[0] == 401
    assert (await validate(auth, tokens["refresh_token"]))[0] == 401


async def test_only_public_keys_are_published(auth: Client) -> None:
    (key,) = (await (await auth.get("/auth/jwks.json")).json())["keys"]
    assert key.keys() == {"kty", "crv", "x", "kid", "use", "alg"}


async def test_a_visitor_gets_a_token_of_a_new_user_without_roles(serve: Serve) -> None:
    auth = await serve("auth", visitors=True)

    async def visit() -> dict[str, Any]:
        status, found = await post(auth, "visitor", {})
        assert status in (200, 503)  # auth has just started
        return found if status == 200 else {}

    first, second = [await eventually(visit) for _ in range(2)]
    assert first.keys() == {"token", "token_type", "expires_in"}
    assert first["expires_in"] == 3600
    claims = [jwt.decode(one["token"], options={"verify_signature": False}) for one in (first, second)]
    assert claims[0]["sub"] != claims[1]["sub"]
    assert all(2**62 <= int(one["sub"]) < 2**63 for one in claims)

    async def validated() -> tuple[int, str | None, str | None] | None:
        found = await validate(auth, first["token"])
        return None if found[0] == 503 else found

    assert await eventually(validated) == (204, claims[0]["sub"], "")


async def test_without_the_setting_there_are_no_visitors(auth: Client) -> None:
    status, found = await post(auth, "visitor", {})
    assert (status, found["type"]) == (403, "/problems/forbidden")
