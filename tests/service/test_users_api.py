"""Profiles over HTTP: who may see, change and delete which profile, and what bad requests cannot change."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from contracts.users import UserDeleted
from shared import postgres
from shared.postgres import transactions
from shared.web import database
from tests.builders import eventually
from tests.conftest import OpenPool
from tests.service.conftest import Client, Serve
from tests.tokens import ADMIN, OTHER, USER, Mint
from users import service, store
from users.domain import Profile

FIELDS = ["id", "username", "display_name", "email", "version", "created_at", "updated_at"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
BAD_IDS = ["0", "-1", "x", "1.0", "\u0667", "9223372036854775808", "%00", "7%0A", "1" * 400]
NOT_YET = "your profile is made in a moment: try again"
NAMES = {int(ADMIN): "admin", int(USER): "ann", int(OTHER): "bob"}


@pytest.fixture
async def client(serve: Serve) -> Client:
    made = await serve("users")
    await register(made, NAMES)
    return made


async def register(client: Client, usernames: dict[int, str]) -> None:
    async with client.app[database.POOL].acquire() as conn:
        await service.register(conn, usernames)


async def fetch(client: Client, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await client.app[database.POOL].fetch(sql)]


async def ask(client: Client, method: str, path: str, headers: dict[str, str], **body: Any) -> tuple[int, Any]:
    """The status of the answer, and its JSON, or the detail of a problem."""
    data = json.dumps(body) if method == "PATCH" else None
    answer = await client.request(method, path, headers=headers, data=data)
    found: Any = await answer.json(content_type=None) if await answer.read() else None
    return answer.status, found if answer.status < 400 else found["detail"]


async def patch(client: Client, headers: dict[str, str], user_id: str = USER, **body: Any) -> tuple[int, Any]:
    return await ask(client, "PATCH", f"/users/{user_id}", headers, **body)


async def published(client: Client) -> list[tuple[Any, ...]]:
    """The topic, key, type and version of all events."""
    value = "(convert_from(value, 'UTF8')::json ->> 'version')::int"
    return await fetch(client, f"select topic, key, type, {value} from outbox order by xid, id")


async def row(client: Client, user_id: str = USER) -> tuple[Any, ...]:
    columns = "username, display_name, email, version, deleted_at is not null"
    (found,) = await fetch(client, f"select {columns} from profiles where user_id = {user_id}")
    return found


async def test_a_users_own_profile_is_shown_under_me_and_under_its_id(client: Client, mint: Mint) -> None:
    status, shown = await ask(client, "GET", "/users/me", mint.header())
    assert (status, list(shown)) == (200, FIELDS)
    assert shown["created_at"].endswith("Z")
    assert [shown[name] for name in FIELDS[:5]] == [int(USER), "ann", "", "", 1]
    assert await ask(client, "GET", f"/users/{USER}", mint.header()) == (200, shown)
    assert await ask(client, "GET", f"/users/{USER}", mint.admin) == (200, shown)


@pytest.mark.parametrize("subject", ["9", "u1", "07", "-1", "9223372036854775808", "\u0667"])
async def test_a_profile_that_does_not_exist_yet_is_404_with_a_hint(client: Client, mint: Mint, subject: str) -> None:
    made_soon = NOT_YET if subject == "9" else "not found"
    assert await ask(client, "GET", "/users/me", mint.header(subject)) == (404, made_soon)
    if subject == "9":
        assert await ask(client, "GET", "/users/9", mint.header(subject)) == (404, "not found")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
class TestAccess:
    async def test_a_request_without_a_token_is_401(self, client: Client, method: str) -> None:
        assert (await ask(client, method, f"/users/{USER}", {}))[0] == 401

    async def test_a_token_signed_with_another_key_is_401(self, client: Client, method: str) -> None:
        assert (await ask(client, method, f"/users/{USER}", Mint().admin))[0] == 401
        assert (await ask(client, method, f"/users/{USER}", Mint("another").admin))[0] == 401

    async def test_the_profile_of_another_user_is_404(self, client: Client, mint: Mint, method: str) -> None:
        before = await row(client)
        refused = await ask(client, method, f"/users/{USER}", mint.header(OTHER), display_name="x")
        missing = await ask(client, method, "/users/404", mint.header(OTHER), display_name="x")
        assert refused == missing == (404, "not found")
        assert (await row(client), await published(client)) == (before, [])

    async def test_the_owner_and_an_administrator_are_allowed(self, client: Client, mint: Mint, method: str) -> None:
        for headers, user_id in ((mint.header(), USER), (mint.admin, OTHER)):
            status, _ = await ask(client, method, f"/users/{user_id}", headers, display_name="x")
            assert status == (204 if method == "DELETE" else 200)

    async def test_an_unknown_user_is_404_for_an_administrator(self, client: Client, mint: Mint, method: str) -> None:
        assert await ask(client, method, "/users/404", mint.admin) == (404, "not found")

    async def test_a_bad_id_is_400(self, client: Client, mint: Mint, method: str) -> None:
        for bad in BAD_IDS:
            assert await ask(client, method, f"/users/{bad}", mint.admin) == (400, "invalid id"), bad

    async def test_me_is_the_caller(self, client: Client, mint: Mint, method: str) -> None:
        assert await ask(client, method, "/users/me", mint.header("404")) == (
            404,
            NOT_YET if method == "GET" else "not found",
        )
        before = await row(client)
        status, _ = await ask(client, method, "/users/me", mint.header(), display_name="x")
        assert status == (204 if method == "DELETE" else 200)
        assert (await row(client) == before) == (method == "GET")


async def test_the_list_is_for_administrators(client: Client, mint: Mint) -> None:
    assert (await ask(client, "GET", "/users/", {}))[0] == 401
    assert (await ask(client, "GET", "/users/", mint.header()))[0] == 403
    status, page = await ask(client, "GET", "/users/", mint.admin)
    assert (status, list(page), page["next_cursor"]) == (200, ["users", "next_cursor"], None)
    assert {user["id"]: user["username"] for user in page["users"]} == NAMES
    assert list(page["users"][0]) == FIELDS


async def test_the_list_is_read_page_by_page_and_filtered_by_name(client: Client, mint: Mint) -> None:
    await register(client, {n: f"user-{n}" for n in range(100, 125)})
    await ask(client, "DELETE", "/users/110", mint.admin)
    remaining = [*NAMES, *(n for n in range(100, 125) if n != 110)]

    async def listed(query: str) -> tuple[list[int], str | None]:
        _, page = await ask(client, "GET", f"/users/?{query}", mint.admin)
        return [user["id"] for user in page["users"]], page["next_cursor"]

    first, cursor = await listed("")
    assert (first, cursor) == (remaining[:20], str(remaining[19]))
    assert await listed(f"cursor={cursor}") == (remaining[20:], None)
    assert await listed("limit=100") == (remaining, None)
    assert await listed(f"limit={len(remaining)}") == (remaining, None)
    assert await listed("username=bob") == ([int(OTHER)], None)
    assert await listed("username=user-110") == await listed("username=") == await listed("username=BOB") == ([], None)


async def test_a_bad_query_is_400(client: Client, mint: Mint) -> None:
    for query in ("limit=0", "limit=101", "limit=x", "cursor=0", "cursor=-1", "username=%00"):
        assert (await ask(client, "GET", f"/users/?{query}", mint.admin))[0] == 400, query


async def test_a_change_sets_the_sent_fields_and_raises_the_version_only_if_they_differ(
    client: Client, mint: Mint
) -> None:
    status, first = await patch(client, mint.header(), display_name="Ann", email="ann@example.org")
    assert (status, first["display_name"], first["email"], first["version"]) == (200, "Ann", "ann@example.org", 2)
    assert first["updated_at"] > first["created_at"]
    for same in ({}, {"display_name": "Ann"}, {"email": "ann@example.org"}):
        assert await patch(client, mint.header(), **same) == (200, first)
    status, second = await patch(client, mint.admin, display_name="")
    assert (status, second["display_name"], second["email"], second["version"]) == (200, "", "ann@example.org", 3)
    assert (await patch(client, mint.header(), email=""))[1]["email"] == ""
    assert await published(client) == []


FITTING = (
    {"display_name": "x" * 128},
    {"display_name": "\U0001f355" * 128},
    {"display_name": "  as written\n"},
    {"email": "a@b.c"},
    {"email": "x" * 64 + "@" + "y" * 187 + ".z"},
    {"email": "ann+shop@sub.example.org"},
    {"email": "jörg@exämple.org"},
)


async def test_valid_values_are_kept_unchanged(client: Client, mint: Mint) -> None:
    for field in FITTING:
        status, shown = await patch(client, mint.header(), **field)
        assert (status, shown | field) == (200, shown), field


BAD = {
    "not JSON": b"{",
    "empty": b"",
    "an array": b"[]",
    "a text": b'"x"',
    "invalid UTF-8": b'{"display_name":"\xff"}',
    "lone surrogate": rb'{"display_name":"\ud800"}',
    "name null": b'{"display_name":null}',
    "name number": b'{"display_name":1}',
    "name list": b'{"display_name":["x"]}',
    "name true": b'{"display_name":true}',
    "name NUL": rb'{"display_name":"a\u0000"}',
    "name too long": b'{"display_name":"' + b"x" * 129 + b'"}',
    "email null": b'{"email":null}',
    "email number": b'{"email":1}',
    "email object": b'{"email":{}}',
    "email NUL": rb'{"email":"a\u0000@b.c"}',
    "email blank": b'{"email":" "}',
    "email without @": b'{"email":"example.org"}',
    "email without a dot": b'{"email":"a@b"}',
    "email without a name": b'{"email":"@b.c"}',
    "email with two @": b'{"email":"a@b@c.d"}',
    "email with a blank": b'{"email":"a b@c.d"}',
    "email with a newline": rb'{"email":"a@b.c\n"}',
    "email with a header": rb'{"email":"a@b.c\r\nBcc: x@y.z"}',
    "email too long": b'{"email":"x@' + b"y" * 251 + b'.z"}',
    "username": b'{"display_name":"x","username":"root"}',
    "version": b'{"version":9}',
    "one of two": b'{"display_name":"good","email":"bad"}',
    "depth": b"[" * 30_000,
}


async def test_a_bad_body_is_400_and_changes_nothing(client: Client, mint: Mint) -> None:
    before = await row(client)
    for name, body in BAD.items():
        answer = await client.patch(f"/users/{USER}", data=body, headers=mint.header())
        assert (answer.status, answer.content_type) == (400, "application/problem+json"), name
    assert await row(client) == before


async def test_a_huge_body_is_413(client: Client, mint: Mint) -> None:
    assert (await patch(client, mint.header(), display_name="x" * 70_000))[0] == 413


async def test_a_deleted_profile_has_no_personal_data_and_is_published_once(client: Client, mint: Mint) -> None:
    await patch(client, mint.header(), display_name="Ann", email="ann@example.org")
    headers = mint.header() | {"traceparent": TRACE}
    assert await ask(client, "DELETE", f"/users/{USER}", headers) == (204, None)
    assert await row(client) == ("", "", "", 3, True)
    (whole,) = await fetch(client, f"select profiles::text from profiles where user_id = {USER}")
    assert "ann" not in whole[0].lower()
    for again in (mint.header(), mint.admin):
        assert await ask(client, "DELETE", f"/users/{USER}", again) == (204, None)
    assert await published(client) == [(UserDeleted.topic, USER, "UserDeleted", 3)]
    assert TRACE in (await fetch(client, "select convert_from(head, 'UTF8') from outbox"))[0][0]
    for headers in (mint.header(), mint.admin):
        assert await ask(client, "GET", f"/users/{USER}", headers) == (404, "not found")
        assert await patch(client, headers, display_name="x") == (404, "not found")
    assert await ask(client, "GET", "/users/me", mint.header()) == (404, "not found")
    assert await ask(client, "DELETE", f"/users/{USER}", mint.header(OTHER)) == (404, "not found")
    assert await row(client) == ("", "", "", 3, True)


async def test_an_administrator_cannot_delete_their_own_profile(client: Client, mint: Mint) -> None:
    status, detail = await ask(client, "DELETE", f"/users/{ADMIN}", mint.admin)
    assert (status, detail) == (409, "an administrator cannot delete their own profile; another administrator can")
    assert await ask(client, "DELETE", f"/users/{ADMIN}", mint.header("2", "admin")) == (204, None)


Send = Callable[[], Awaitable[tuple[int, Any]]]


async def overlap(client: Client, monkeypatch: pytest.MonkeyPatch, first: Send, second: Send) -> list[int]:
    """Send the second request when the first has read the profile.

    The first continues when the second waits or is answered.
    """
    has_read, go_on, real = asyncio.Event(), asyncio.Event(), store.get

    async def get(conn: postgres.Connection, user_id: int) -> Profile | None:
        found = await real(conn, user_id)
        if not has_read.is_set():
            has_read.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store, "get", get)
    one = asyncio.ensure_future(first())
    await has_read.wait()
    two = asyncio.ensure_future(second())

    async def second_waits_or_is_answered() -> bool:
        return two.done() or (await fetch(client, WAITING))[0][0] == 1

    await eventually(second_waits_or_is_answered)
    go_on.set()
    return [(await one)[0], (await two)[0]]


class TestRaces:
    @pytest.fixture(autouse=True)
    def _requests(self, client: Client, mint: Mint) -> None:
        self.client = client
        self.name: Send = lambda: patch(client, mint.header(), display_name="Ann")
        self.email: Send = lambda: patch(client, mint.admin, email="ann@example.org")
        self.delete: Send = lambda: ask(client, "DELETE", f"/users/{USER}", mint.header())

    async def two_patches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await overlap(self.client, monkeypatch, self.name, self.email) == [200, 200]
        assert await row(self.client) == ("ann", "Ann", "ann@example.org", 3, False)

    async def patch_and_deletion(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await overlap(self.client, monkeypatch, self.name, self.delete) == [200, 204]
        assert await row(self.client) == ("", "", "", 3, True)

    async def two_deletions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await overlap(self.client, monkeypatch, self.delete, self.delete) == [204, 204]
        assert await published(self.client) == [(UserDeleted.topic, USER, "UserDeleted", 2)]

    RACES = ("two_patches", "patch_and_deletion", "two_deletions")

    @pytest.mark.parametrize("race", RACES)
    async def test_two_requests_at_once_do_not_undo_each_other(
        self, monkeypatch: pytest.MonkeyPatch, race: str
    ) -> None:
        await getattr(self, race)(monkeypatch)

    @pytest.mark.parametrize("race", RACES)
    async def test_without_the_lock_one_request_undoes_the_other(
        self, monkeypatch: pytest.MonkeyPatch, race: str
    ) -> None:
        monkeypatch.setattr(transactions, "_lock_sql", lambda _: "select 1")
        with pytest.raises(AssertionError):
            await getattr(self, race)(monkeypatch)

    async def test_a_patch_after_a_deletion_is_404(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert await overlap(self.client, monkeypatch, self.delete, self.name) == [204, 404]
        assert await row(self.client) == ("", "", "", 2, True)


async def test_many_patches_at_once_are_all_made(client: Client, mint: Mint) -> None:
    answers = await asyncio.gather(*(patch(client, mint.header(), display_name=str(n)) for n in range(40)))
    assert {status for status, _ in answers} == {200}
    assert sorted(shown["version"] for _, shown in answers) == list(range(2, 42))


async def test_every_request_is_answered_in_time_while_postgres_does_not_answer(
    client: Client, mint: Mint, open_pool: OpenPool
) -> None:
    pool = await open_pool("users")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("set local idle_in_transaction_session_timeout = 0")
        await conn.execute("lock table profiles")
        async with asyncio.timeout(3):
            answers = await asyncio.gather(
                *(
                    ask(client, method, path, mint.admin)
                    for method in ("GET", "PATCH", "DELETE")
                    for path in (f"/users/{USER}", "/users/", "/users/me")[: 3 if method == "GET" else 1]
                )
            )
    assert answers == [(503, "db error")] * 5
    await eventually(lambda: fetch(client, f"select 1 from profiles where user_id = {USER} and version = 1"))
    assert await published(client) == []


async def test_a_process_without_the_api_part_serves_no_profiles(serve: Serve, mint: Mint) -> None:
    client = await serve("users", only=["relay"])
    assert (await client.get("/users/me", headers=mint.header())).status == 404


async def test_a_registered_user_gets_a_profile_and_cannot_log_in_after_its_deletion(
    serve: Serve, mint: Mint, shop_topics: str
) -> None:
    everything: dict[str, Any] = {"only": ["api", "relay", "consumer"], "kafka_bootstrap_servers": shop_topics}
    auth, users = await serve("auth", **everything), await serve("users", **everything)
    pair = json.dumps({"username": "carla", "password": "correct horse"})
    registered = await (await auth.post("/auth/register", data=pair)).json()
    headers = mint.header(str(registered["id"]))

    async def log_in() -> int:
        return (await auth.post("/auth/login", data=pair)).status

    async def has_a_profile() -> bool:
        status, shown = await ask(users, "GET", "/users/me", headers)
        return status == 200 and bool(shown["username"] == "carla")

    await eventually(has_a_profile)
    assert await log_in() == 200
    assert (await ask(users, "DELETE", f"/users/{registered['id']}", headers))[0] == 204

    async def is_refused() -> bool:
        return await log_in() == 401

    await eventually(is_refused)
