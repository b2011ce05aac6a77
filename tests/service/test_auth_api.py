"""Login and sessions: tokens, refresh with rotation, logout, and what is public of keys and sessions."""

import asyncio
import json
from typing import Any

import jwt
import pytest

from tests.builders import eventually
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


async def test_a_refresh_token_is_valid_once_and_its_reuse_ends_the_session(auth: Client) -> None:
    _, first = await post(auth, "login", ADMIN)
    status, second = await post(auth, "refresh", {"refresh_token": first["refresh_token"]})
    assert status == 200
    assert (await post(auth, "refresh", {"refresh_token": first["refresh_token"]}))[0] == 401
    assert (await post(auth, "refresh", {"refresh_token": second["refresh_token"]}))[0] == 401

    async def over() -> bool:
        return (await validate(auth, second["token"]))[0] == 401

    await eventually(over)


async def test_only_one_of_many_refreshes_at_once_succeeds(auth: Client) -> None:
    _, first = await post(auth, "login", ADMIN)
    sent = {"refresh_token": first["refresh_token"]}
    answers = await asyncio.gather(*(post(auth, "refresh", sent) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] + [401] * 19


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
    assert await validate(auth, first["token"]) == (204, claims[0]["sub"], "")


async def test_without_the_setting_there_are_no_visitors(auth: Client) -> None:
    status, found = await post(auth, "visitor", {})
    assert (status, found["type"]) == (403, "/problems/forbidden")
