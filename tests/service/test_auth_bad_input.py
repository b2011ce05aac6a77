"""No body, name, password or refresh token makes auth fail, hang or answer wrongly."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.builders import eventually
from tests.conftest import Database, copied_from
from tests.service.conftest import Client, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAIR = {"username": "ann", "password": "correct horse"}
GOOD: dict[str, dict[str, Any]] = {
    "register": PAIR,
    "login": PAIR,
    "refresh": {"refresh_token": "0" * 32 + "." + "x" * 43},
    "logout": {"refresh_token": "0" * 32 + "." + "x" * 43},
}
FIELDS = [(path, field) for path, good in GOOD.items() for field in good]
MADE_UP = 999_999_999_999


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(template: Database) -> AsyncIterator[Client]:
    limits = {"free_failures_per_account": 1000, "free_failures_per_address": 1_000_000}
    async with (
        copied_from(template) as database,
        serving("auth", database.url_for("auth"), **limits) as client,
    ):

        async def ready() -> bool:
            return (await client.post("/auth/login", json=PAIR)).status == 401

        await eventually(ready)
        yield client


async def assert_problem(answer: Any, *statuses: int) -> str:
    assert answer.status in statuses, await answer.text()
    problem = await answer.json(content_type="application/problem+json")
    assert problem["status"] == answer.status
    return str(problem["detail"])


def text_of(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def raw(path: str, field: str, value: bytes) -> bytes:
    """A good body, except that one field has these bytes as its value."""
    return text_of(GOOD[path] | {field: "@"}).replace(b'"@"', value)


BODIES = {
    "empty": b"",
    "blank": b" \n",
    "array": b"[]",
    "array of objects": b"[{}]",
    "text": b'"x"',
    "number": b"1",
    "true": b"true",
    "truncated": b'{"username":"ann","pass',
    "garbage behind": b"{}x",
    "two objects": b"{}{}",
    "BOM": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "invalid UTF-8": b'{"username":"\xff","password":"\xff","refresh_token":"\xff"}',
    "a form": b"username=admin&password=password&refresh_token=x",
    "depth 30,000": b"[" * 30_000 + b"]" * 30_000,
    "depth in an object": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "NaN": b'{"username":NaN,"password":NaN,"refresh_token":NaN}',
    "single quotes": b"{'username':'ann'}",
    "5,000 digits": b'{"x":' + b"1" * 5000 + b"e99999}",
    "binary": bytes(range(256)),
}

VALUES = {
    "null": b"null",
    "false": b"false",
    "zero": b"0",
    "1.0": b"1.0",
    "2^64": b"18446744073709551616",
    "300 digits": b"1" * 300,
    "an array": b'["ann"]',
    "an object": b'{"$ne":null}',
    "NUL": b'"ann\\u0000xyzxyzxyz"',
    "raw NUL": b'"ann\0xyzxyzxyz"',
    "lone surrogate": b'"\\ud800correct horse"',
    "swapped surrogates": b'"\\udc00\\ud800 horse"',
    "raw line end": b'"a\nbcdefghijk"',
    "too long": b'"' + b"x" * 513 + b'"',
    "60,000 characters": b'"' + b"x" * 60_000 + b'"',
    "wide and too long": ('"' + "\U0001f35f" * 513 + '"').encode(),
}

BAD_NAMES = {
    "empty": "",
    "a blank": " ",
    "two letters": "an",
    "33 letters": "a" * 33,
    "capitals": "Ann",
    "a blank before": " ann",
    "a blank behind": "ann ",
    "a line end behind": "ann\n",
    "a line end inside": "ann\nadmin",
    "CR LF": "ann\r\nX-Admin: 1",
    "homoglyph": "\u0430dmin",
    "full width": "\uff41\uff44\uff4d\uff49\uff4e",
    "Arabic-Indic digits": "a\u0661\u0661",
    "right to left": "\u202eann",
    "zero width": "an\u200bn",
    "combining": "ann\u0301",
    "SQL": "a'; drop table credentials; --",
    "script": "<script>",
    "a path": "../../etc/passwd",
    "dots": "..",
    "a dot first": ".ann",
    "like a deleted one": "~1",
    "at": "ann@example.com",
    "percent": "ann%00",
    "wild": "%%%",
}

ODD_PASSWORDS = {
    "the longest": "p" * 128,
    "the longest, wide": "\U0001f35f" * 128,
    "eight blanks": " " * 8,
    "line ends": "\r\n" * 4,
    "right to left": "\u202e\u200f" * 4,
    "not characters": "\uffff\ufffe" * 4,
    "controls": "\x01\x02\x7f\x80\x1b[2J",
    "backslashes": "\\u0000\\x00\\",
    "quotes": "'\"`;--' or ''='",
    "combining": "e\u0301" * 8,
}

ODD_TOKENS = {
    "empty": "",
    "a dot": ".",
    "no secret": "0" * 32,
    "no session": "." + "x" * 43,
    "31 digits": "0" * 31 + ".x",
    "33 digits": "0" * 33 + ".x",
    "dashes": "00000000-0000-0000-0000-000000000000.x",
    "braces": "{" + "0" * 32 + "}.x",
    "urn": "urn:uuid:" + "0" * 32 + ".x",
    "Arabic-Indic digits": "\u0661" * 32 + ".x",
    "sign": "+" + "0" * 31 + ".x",
    "underscores": "0_" * 15 + "00.x",
    "a JWT": "eyJhbGciOiJub25lIn0.e30.",
    "the longest": "x" * 512,
    "wide": "\U0001f35f" * 512,
    "SQL": "' or 1=1 --",
}


@pytest.mark.parametrize("data", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", GOOD)
async def test_a_body_that_is_no_json_object_is_refused(auth: Client, path: str, data: bytes) -> None:
    detail = await assert_problem(await auth.post(f"/auth/{path}", data=data), 400)
    assert detail in {"invalid json", "the body must be a JSON object"} or detail.endswith("is required")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(("path", "field"), FIELDS)
async def test_a_field_that_is_no_text_or_too_long_is_refused(
    auth: Client, path: str, field: str, value: bytes
) -> None:
    await assert_problem(await auth.post(f"/auth/{path}", data=raw(path, field, value)), 400)


@pytest.mark.parametrize(("path", "field"), FIELDS)
async def test_a_missing_field_is_named(auth: Client, path: str, field: str) -> None:
    body = {name: value for name, value in GOOD[path].items() if name != field}
    detail = await assert_problem(await auth.post(f"/auth/{path}", data=text_of(body)), 400)
    assert detail == f"{field} is required"


@pytest.mark.parametrize("path", GOOD)
async def test_a_body_over_64_kib_is_413(auth: Client, path: str) -> None:
    for data in (b" " * 65_537, text_of({"username": "x" * 1_000_000}), b"[" * 100_000):
        await assert_problem(await auth.post(f"/auth/{path}", data=io.BytesIO(data)), 413)


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
async def test_a_bad_username_can_neither_register_nor_log_in(auth: Client, name: str) -> None:
    detail = await assert_problem(await auth.post("/auth/register", json=PAIR | {"username": name}), 400)
    assert detail.startswith("username")
    await assert_problem(await auth.post("/auth/login", json=PAIR | {"username": name}), 401)


@pytest.mark.parametrize("password", ["", "x" * 7, "\U0001f35f" * 7, "p" * 129], ids=["none", "7", "7 wide", "129"])
async def test_a_password_is_8_to_128_characters(auth: Client, password: str) -> None:
    answer = await auth.post("/auth/register", json=PAIR | {"password": password})
    detail = await assert_problem(answer, 400)
    assert detail.startswith("password")
    assert not password or password not in detail


@pytest.mark.parametrize("kind", ODD_PASSWORDS)
async def test_an_unusual_password_is_kept_unchanged(auth: Client, kind: str) -> None:
    pair = {"username": f"odd.{list(ODD_PASSWORDS).index(kind)}", "password": ODD_PASSWORDS[kind]}
    assert (await auth.post("/auth/register", json=pair)).status == 201
    assert (await auth.post("/auth/login", json=pair)).status == 200
    for near in (pair["password"][:-1], "?" + pair["password"][1:]):
        await assert_problem(await auth.post("/auth/login", json=pair | {"password": near}), 401)


@pytest.mark.parametrize("token", ODD_TOKENS.values(), ids=ODD_TOKENS)
async def test_an_unknown_refresh_token_refreshes_nothing_and_ends_nothing(auth: Client, token: str) -> None:
    await assert_problem(await auth.post("/auth/refresh", json={"refresh_token": token}), 401)
    assert (await auth.post("/auth/logout", json={"refresh_token": token})).status == 204


async def test_unknown_fields_are_refused(auth: Client) -> None:
    pair = {"username": "mallory", "password": "correct horse"}
    for more in ({"roles": ["admin"]}, {"user_id": MADE_UP}, {"id": 1}, {"is_admin": True}, {"disabled_at": None}):
        detail = await assert_problem(await auth.post("/auth/register", json=more | pair), 400)
        assert detail == f"{next(iter(more))} is unknown here; known are: username, password"
    await assert_problem(await auth.post("/auth/login", json=pair), 401)


@pytest.mark.parametrize("path", [*GOOD, "validate", "jwks.json"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "PURGE"])
async def test_an_unsupported_verb_is_405(auth: Client, path: str, method: str) -> None:
    await assert_problem(await auth.request(method, f"/auth/{path}", data=b"{}"), 405)


@pytest.mark.parametrize("path", ["/auth", "/auth/", "/auth/login/x", "/auth/%2e%2e/x"])
async def test_an_unknown_path_is_a_problem(auth: Client, path: str) -> None:
    await assert_problem(await auth.post(path, data=text_of(PAIR)), 404)
