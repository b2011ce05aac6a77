"""Passwords, sessions and administrators: who may change them, what it ends, and what is logged about it."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import jwt
import pytest
from structlog.testing import capture_logs

from auth import store
from tests.builders import eventually
from tests.conftest import Database
from tests.service.conftest import Client, Serve

PASSWORD, ANOTHER = "correct horse", "battery staple"
FREE = 5


class Person:
    """A login; `tokens` are those of its last session."""

    def __init__(self, client: Client, username: str, password: str = PASSWORD) -> None:
        self.client, self.username, self.password = client, username, password
        self.id, self.tokens = 0, dict[str, Any]()

    async def register(self, **headers: str) -> "Person":
        sent = {"username": self.username, "password": self.password}
        answer = await self.client.post("/auth/register", json=sent)
        assert answer.status == 201
        self.id = (await answer.json())["id"]
        return await self.log_in(**headers)

    async def log_in(self, **headers: str) -> "Person":
        sent = {"username": self.username, "password": self.password}
        answer = await self.client.post("/auth/login", json=sent, headers=headers)
        assert answer.status == 200, await answer.text()
        self.tokens = await answer.json()
        self.device = answer.cookies["device"].value
        self.id = int(self.claims["sub"])
        return self

    @property
    def claims(self) -> dict[str, Any]:
        return jwt.decode(self.tokens["token"], options={"verify_signature": False})

    async def send(self, method: str, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        sent = {"Authorization": f"Bearer {self.tokens['token']}"} | headers
        answer = await self.client.request(method, f"/auth/{path}", json=json, headers=sent)
        return answer.status, await answer.json(content_type=None) if answer.content_length else None

    async def change(self, old: str, new: str) -> int:
        status, _ = await self.send("POST", "password", {"old_password": old, "new_password": new})
        return status

    async def is_over(self) -> bool:
        sent = {"refresh_token": self.tokens["refresh_token"]}
        return (await self.client.post("/auth/refresh", json=sent)).status == 401


@pytest.fixture
async def conn(database: Database) -> AsyncIterator[Any]:
    made = await asyncpg.connect(database.url_for("auth"))
    yield made
    await made.close()


@pytest.fixture
async def auth(serve: Serve) -> Client:
    return await serve("auth")


@pytest.fixture
async def admin(auth: Client) -> Person:
    person = Person(auth, "admin", "password")

    async def exists() -> bool:
        sent = {"username": "admin", "password": "password"}
        return (await auth.post("/auth/login", json=sent)).status == 200

    await eventually(exists)
    return await person.log_in()


# Passwords


@pytest.mark.parametrize("password", ["password", "12345678", "PassWord", "iloveyou", "qwertyuiop", "mallory-2"])
async def test_a_common_password_can_neither_be_registered_nor_chosen_later(auth: Client, password: str) -> None:
    answer = await auth.post("/auth/register", json={"username": "mallory-2", "password": password})
    assert answer.status == 400
    assert (await answer.json())["detail"].startswith("the password is the username or one of the commonest")
    person = await Person(auth, "mallory-2").register()
    assert await person.change(PASSWORD, password) == 400
    assert not await person.is_over()


async def test_a_changed_password_replaces_the_old_one_and_ends_the_other_sessions(auth: Client) -> None:
    elsewhere, person = await Person(auth, "ann").register(), await Person(auth, "ann").log_in()
    assert await person.change(PASSWORD, ANOTHER) == 204
    assert [await person.is_over(), await elsewhere.is_over()] == [False, True]
    old = await auth.post("/auth/login", json={"username": "ann", "password": PASSWORD})
    assert old.status == 401
    await Person(auth, "ann", ANOTHER).log_in()

    async def is_refused() -> bool:
        return (await elsewhere.send("GET", "validate"))[0] == 401

    await eventually(is_refused)
    assert (await person.send("GET", "validate"))[0] == 204


async def test_a_stolen_access_token_cannot_be_used_to_guess_the_old_password(
    auth: Client, conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_FAILED", store._FAILED.replace("2.0 ^ ", "30 + 2.0 ^ "))
    thief, owner = await Person(auth, "ann").register(), await Person(auth, "ann").log_in()
    guesses = [await thief.change(f"guess {n}", ANOTHER) for n in range(FREE + 2)]
    assert guesses == [403] * (FREE + 1) + [429]
    assert await thief.change(PASSWORD, ANOTHER) == 429
    assert await owner.change(PASSWORD, ANOTHER) == 204


async def test_two_changes_at_once_leave_one_of_the_two_passwords(auth: Client) -> None:
    person = await Person(auth, "ann").register()
    statuses = await asyncio.gather(*(person.change(PASSWORD, f"{ANOTHER} {n}") for n in range(4)))
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 403, 429}
    await Person(auth, "ann", f"{ANOTHER} {statuses.index(204)}").log_in()


async def test_a_device_stays_known_after_its_user_has_changed_the_password_there(auth: Client) -> None:
    person = await Person(auth, "ann").register()
    old = person.device
    headers = {"Authorization": f"Bearer {person.tokens['token']}"}
    sent = {"old_password": PASSWORD, "new_password": ANOTHER}
    answer = await auth.post("/auth/password", json=sent, headers=headers)
    new = answer.cookies["device"].value
    changed = Person(auth, "ann", ANOTHER)
    assert (await changed.log_in(Cookie=f"device={new}")).device == new
    assert (await changed.log_in(Cookie=f"device={old}")).device not in {old, new}


async def test_the_administrators_password_is_changed_in_the_settings_only(admin: Person) -> None:
    status, problem = await admin.send("POST", "password", {"old_password": "password", "new_password": ANOTHER})
    assert (status, "ADMIN_PASSWORD" in problem["detail"]) == (409, True)


async def test_the_cookie_of_a_device_is_kept_from_pages_and_from_other_paths(auth: Client) -> None:
    await Person(auth, "ann").register()
    sent = {"username": "ann", "password": PASSWORD}
    for scheme, is_secure in (("http", False), ("https", True)):
        answer = await auth.post("/auth/login", json=sent, headers={"X-Forwarded-Proto": scheme})
        cookie = answer.cookies["device"]
        assert (cookie["path"], cookie["samesite"], cookie["httponly"]) == ("/auth", "Strict", True)
        assert (int(cookie["max-age"]), bool(cookie["secure"])) == (365 * 86_400, is_secure)


# Sessions


async def test_a_user_sees_own_sessions_and_ends_one_of_them(auth: Client) -> None:
    phone = await Person(auth, "ann").register(**{"User-Agent": "phone " + "x" * 300})
    laptop = await Person(auth, "ann").log_in(**{"User-Agent": "laptop"})
    await Person(auth, "bob").register()
    status, found = await laptop.send("GET", "sessions")
    assert status == 200
    shown = [(one["user_agent"][:6], len(one["user_agent"]), one["is_current"]) for one in found["sessions"]]
    assert shown == [("laptop", 6, True), ("phone ", 200, False)]
    assert all(one["created_at"] <= one["last_used_at"] for one in found["sessions"])

    session_id = found["sessions"][1]["id"]
    assert session_id == phone.claims["sid"]
    assert (await laptop.send("DELETE", f"sessions/{session_id}"))[0] == 204
    assert (await laptop.send("DELETE", f"sessions/{session_id}"))[0] == 404
    assert [await phone.is_over(), await laptop.is_over()] == [True, False]

    async def is_refused() -> bool:
        return (await phone.send("GET", "sessions"))[0] == 401

    await eventually(is_refused)
    assert len((await laptop.send("GET", "sessions"))[1]["sessions"]) == 1


async def test_the_sessions_of_others_can_be_neither_seen_nor_ended(auth: Client, admin: Person) -> None:
    ann, bob = await Person(auth, "ann").register(), await Person(auth, "bob").register()
    for other in (bob, admin):
        assert ann.claims["sid"] not in str((await other.send("GET", "sessions"))[1])
        assert (await other.send("DELETE", f"sessions/{ann.claims['sid']}"))[0] == 404
    assert not await ann.is_over()


@pytest.mark.parametrize("session", ["x", "0" * 32, "%00", "\u0661" * 32, "x" * 500])
async def test_a_session_that_does_not_exist_is_404(auth: Client, session: str) -> None:
    assert (await (await Person(auth, "ann").register()).send("DELETE", f"sessions/{session}"))[0] == 404


# Administrators


async def test_a_second_administrator_is_made_and_dismissed_and_loses_the_role_at_once(
    auth: Client, admin: Person
) -> None:
    ann = await Person(auth, "ann").register()
    for _ in range(2):
        assert (await admin.send("PUT", f"admins/{ann.id}"))[0] == 204
    assert (await ann.log_in()).claims["roles"] == ["admin"]
    for _ in range(2):
        assert (await admin.send("DELETE", f"admins/{ann.id}"))[0] == 204
    assert (await ann.send("PUT", f"admins/{ann.id}"))[0] in {401, 403}  # 403: auth does not trust the token's role
    assert await ann.is_over()

    async def is_refused() -> bool:
        return (await ann.send("GET", "sessions"))[0] == 401

    await eventually(is_refused)
    assert (await ann.log_in()).claims["roles"] == []


async def test_nobody_else_gives_or_takes_the_role(auth: Client, admin: Person) -> None:
    ann = await Person(auth, "ann").register()
    assert (await ann.send("PUT", f"admins/{ann.id}"))[0] == 403
    assert (await ann.send("DELETE", f"admins/{admin.id}"))[0] == 403
    assert (await auth.put(f"/auth/admins/{ann.id}")).status == 401
    assert (await ann.log_in()).claims["roles"] == []


async def test_an_unknown_user_gets_no_role(admin: Person, conn: Any) -> None:
    gone = await Person(admin.client, "gone").register()
    await conn.execute("update credentials set disabled_at = now() where username = 'gone'")
    for user_id, status in ((gone.id, 404), (999_999, 404), (2**63 - 1, 404), ("0", 400), ("x", 400), (2**63, 400)):
        assert (await admin.send("PUT", f"admins/{user_id}"))[0] == status
        assert (await admin.send("DELETE", f"admins/{user_id}"))[0] == status


async def test_the_last_administrator_keeps_the_role_even_if_two_dismiss_each_other(
    auth: Client, admin: Person, conn: Any
) -> None:
    assert (await admin.send("DELETE", f"admins/{admin.id}"))[0] == 409
    for n in range(5):
        ann = await Person(auth, f"ann{n}").register()
        await admin.send("PUT", f"admins/{ann.id}")
        await ann.log_in()
        dismissals = (admin.send("DELETE", f"admins/{ann.id}"), ann.send("DELETE", f"admins/{admin.id}"))
        assert sorted(status for status, _ in await asyncio.gather(*dismissals)) in ([204, 403], [204, 401])
        assert await conn.fetchval("select count(*) from credentials where 'admin' = any(roles)") == 1
        await conn.execute("update credentials set roles = '{}' where username <> 'admin'")
        await conn.execute("update credentials set roles = '{admin}' where username = 'admin'")
        await admin.log_in()


# What is logged


async def test_each_decision_leaves_one_line_with_who_what_whom_where_and_outcome(auth: Client, admin: Person) -> None:
    with capture_logs() as lines:
        ann = await Person(auth, "ann").register()
        here = {"X-Real-IP": "192.0.2.7"}
        await auth.post("/auth/login", json={"username": "ann", "password": "a guess"}, headers=here)
        await auth.post("/auth/login", json={"username": "nobody", "password": "a guess"}, headers=here)
        await ann.change("a guess", ANOTHER)
        await ann.change(PASSWORD, ANOTHER)
        await admin.send("PUT", f"admins/{ann.id}", **here)
        await admin.send("DELETE", f"admins/{ann.id}")
        await admin.send("DELETE", f"admins/{admin.id}")
        ann.password = ANOTHER
        await ann.log_in()
        await ann.send("DELETE", f"sessions/{ann.claims['sid']}")
        await ann.log_in()
        await auth.post("/auth/logout", json={"refresh_token": ann.tokens["refresh_token"]})
        await ann.log_in()
        old = {"refresh_token": ann.tokens["refresh_token"]}
        await auth.post("/auth/refresh", json=old)
        await auth.post("/auth/refresh", json=old, headers={"Cookie": "device=of-a-thief"})
    user, boss = str(ann.id), str(admin.id)
    found = [(x["what"], x["who"], x["whom"], x["outcome"]) for x in lines if x["event"] == "audit"]
    assert found == [
        ("register", user, user, "done"),
        ("login", user, user, "done"),
        ("login", "", user, "refused: wrong username or password"),
        ("login", "", "", "refused: wrong username or password"),
        ("change password", user, user, "refused: the old password is wrong"),
        ("change password", user, user, "done"),
        ("give role admin", boss, user, "done"),
        ("take role admin", boss, user, "done"),
        ("take role admin", boss, boss, "refused: this is the last administrator: make another user one first"),
        ("login", user, user, "done"),
        ("end session", user, user, "done"),
        ("login", user, user, "done"),
        ("logout", user, user, "done"),
        ("login", user, user, "done"),
        ("refresh", "", user, "refused: an old refresh token; the session is over"),
    ]
    addresses = [x["address"] for x in lines if x["event"] == "audit"]
    assert [addresses[n] for n in (2, 3, 6)] == ["192.0.2.7"] * 3
    assert {addresses[0], addresses[4]} == {"127.0.0.1"}
    secrets = [PASSWORD, ANOTHER, "a guess", "nobody", ann.device, ann.tokens["token"], ann.tokens["refresh_token"]]
    assert not re.search("|".join(map(re.escape, secrets)), str(lines))
