"""Guessing passwords is slow, reveals nothing, and slows down no other user and no known device.

Of many registrations of one name at the same time, one succeeds.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from argon2 import PasswordHasher

from auth import passwords, service, store
from auth.domain import Credential
from auth.passwords import Passwords
from tests.builders import eventually
from tests.conftest import Database, copied_from
from tests.service.conftest import Client, Serve, serving

FREE = 5
PASSWORD = "correct horse"

on_one_service = pytest.mark.asyncio(loop_scope="module")
_addresses = (f"192.0.2.{n}" for n in count())


@dataclass(frozen=True)
class Auth:
    """The service as clients see it, and its database."""

    client: Client
    conn: Any

    async def log_in(
        self, username: str, password: str = PASSWORD, ip: str | None = None, device: str = ""
    ) -> tuple[int, int, str]:
        """Log in, by default from a new address; return the status, the seconds to wait, and the detail."""
        answer = await self._answer(username, password, ip, device)
        detail = (await answer.json(content_type=None)).get("detail", "")
        return answer.status, int(answer.headers.get("Retry-After", 0)), detail

    async def device(self, username: str, ip: str | None = None) -> str:
        """Log in; return the token of the device."""
        answer = await self._answer(username, PASSWORD, ip, "")
        assert answer.status == 200
        return answer.cookies["device"].value

    async def _answer(self, username: str, password: str, ip: str | None, device: str) -> Any:
        sent = {"username": username, "password": password}
        headers = {"X-Real-IP": next(_addresses) if ip is None else ip}
        cookies = {"Cookie": f"device={device}"} if device else {}
        return await self.client.post("/auth/login", json=sent, headers=headers | cookies)

    async def statuses(self, username: str, guesses: int) -> list[int]:
        return [(await self.log_in(username, f"guess {n}"))[0] for n in range(guesses)]

    async def register(self, username: str, password: str = PASSWORD) -> int:
        answer = await self.client.post("/auth/register", json={"username": username, "password": password})
        return answer.status

    async def disable(self, username: str) -> None:
        await self.conn.execute("update credentials set disabled_at = now() where username = $1", username)

    async def let_time_pass(self) -> None:
        await self.conn.execute("update throttles set blocked_until = now()")

    async def let_seconds_pass(self, seconds: int) -> None:
        sql = "update throttles set blocked_until = blocked_until - step, seen_at = seen_at - step"
        await self.conn.execute(f"{sql} from make_interval(secs => $1) as step", seconds)


async def opened(client: Client, database: Database) -> AsyncIterator[Auth]:
    conn = await asyncpg.connect(database.url_for("auth"))
    yield Auth(client, conn)
    await conn.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database_for_all(template: Database) -> AsyncIterator[Database]:
    async with copied_from(template) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def auth(database_for_all: Database) -> AsyncIterator[Auth]:
    """A service for tests that use their own usernames."""
    async with serving("auth", database_for_all.url_for("auth"), free_failures_per_account=FREE) as client:
        async for made in opened(await keyed(client), database_for_all):
            yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lenient_auth(database_for_all: Database) -> AsyncIterator[Auth]:
    """Another service, which allows many guesses for a name, but not from one address."""
    limits = {"free_failures": 1000, "free_failures_per_account": 1000, "free_failures_per_address": 3}
    async with serving("auth", database_for_all.url_for("auth"), **limits) as client:
        async for made in opened(await keyed(client), database_for_all):
            yield made


async def keyed(client: Client) -> Client:
    """Wait until the service has a signing key."""

    async def published() -> bool:
        return (await client.get("/auth/jwks.json")).status == 200

    await eventually(published)
    return client


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first wait as long as the last one, and forget slowly, so that nothing changes during a slow test."""
    monkeypatch.setattr(store, "_FAILED", store._FAILED.replace("2.0 ^ ", "30 + 2.0 ^ "))
    for leak in ("_LEAK_SECONDS", "_SHARED_LEAK_SECONDS"):
        monkeypatch.setattr(service, leak, 100.0)
    monkeypatch.setattr(passwords, "_TURN_SECONDS", 2.5)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The results of all comparisons of passwords."""
    found: list[bool] = []
    real = Passwords.is_right

    async def is_right(self: Passwords, known: Credential | None, password: str) -> bool:
        right = await real(self, known, password)
        found.append(right)
        return right

    monkeypatch.setattr(Passwords, "is_right", is_right)
    return found


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_after_the_free_failures_even_the_right_password_must_wait(auth: Auth, compared: list[bool]) -> None:
    assert await auth.register("bea") == 201
    for _ in range(2):  # a success resets the failures
        compared.clear()
        assert await auth.statuses("bea", FREE + 1) == [401] * (FREE + 1)
        for password in ("guess", PASSWORD):
            status, seconds, _ = await auth.log_in("bea", password)
            assert status == 429
            assert 0 < seconds <= 31
        assert len(compared) == FREE + 1
        await auth.let_time_pass()
        assert (await auth.log_in("bea"))[0] == 200


@on_one_service
async def test_the_wait_doubles_up_to_half_a_minute(auth: Auth) -> None:
    assert await auth.statuses("waiting", FREE) == [401] * FREE
    waits = []
    for _ in range(8):
        assert (await auth.log_in("waiting"))[0] == 401
        waits.append((await auth.log_in("waiting"))[1])  # 0 if the first wait, of one second, is already over
        await auth.let_time_pass()
    assert waits[2:] == sorted(waits[2:])
    assert waits[2] < 10
    assert 30 <= waits[-1] <= 31


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_failures_are_forgotten_after_a_quarter_of_an_hour(auth: Auth) -> None:
    await auth.statuses("forgotten", FREE + 1)
    await auth.conn.execute("update throttles set blocked_until = now(), seen_at = now() - interval '16 minutes'")
    assert await auth.statuses("forgotten", FREE + 2) == [401] * (FREE + 1) + [429]


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_unknown_names_are_counted_and_answered_like_known_ones(auth: Auth) -> None:
    assert [await auth.register(name) for name in ("known", "gone")] == [201, 201]
    await auth.disable("gone")
    answers = {
        name: [await auth.log_in(name, f"guess {n}") for n in range(FREE + 2)]
        for name in ("known", "nobody", "gone", "", "Known", "'; --", "\u0661" * 128)
    }
    assert [status for status, _, _ in answers["known"]] == [401] * (FREE + 1) + [429]
    for found in answers.values():  # the seconds that are left depend on how long the test took
        assert [(status, detail) for status, _, detail in found] == [(s, d) for s, _, d in answers["known"]]
        assert 0 < found[-1][1] <= 31


@pytest.mark.usefixtures("long_waits")
async def test_guesses_from_one_address_do_not_lock_the_owner_out(serve: Serve, database: Database) -> None:
    async for auth in opened(await keyed(await serve("auth")), database):
        assert await auth.register("amy") == 201
        guesses = [(await auth.log_in("amy", "guess", ip="203.0.113.1"))[0] for _ in range(FREE + 5)]
        assert guesses == [401] * (FREE + 1) + [429] * 4
        assert (await auth.log_in("amy", PASSWORD, ip="203.0.113.1"))[0] == 429
        assert (await auth.log_in("amy", PASSWORD, ip="203.0.113.2"))[0] == 200


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_guesses_for_many_names_slow_down_their_address_and_no_other(lenient_auth: Auth) -> None:
    assert await lenient_auth.register("cem") == 201
    here, there = "198.51.100.1", "198.51.100.2"
    assert [(await lenient_auth.log_in(f"name {n}", ip=here))[0] for n in range(5)] == [401] * 4 + [429]
    assert (await lenient_auth.log_in("cem", ip=here))[0] == 429
    assert (await lenient_auth.log_in("cem", ip=there))[0] == 200
    await lenient_auth.let_time_pass()
    assert (await lenient_auth.log_in("cem", ip=here))[0] == 200
    assert [(await lenient_auth.log_in(f"other {n}", ip=here))[0] for n in range(2)] == [
        401,
        429,
    ]  # a success does not reset an address


@pytest.mark.usefixtures("long_waits")
async def test_wrong_passwords_from_a_shared_address_lock_out_no_device_that_has_logged_in_before(
    serve: Serve, database: Database
) -> None:
    """Behind a proxy or NAT everybody has one address."""
    shared = "203.0.113.9"
    async for auth in opened(await keyed(await serve("auth", free_failures_per_address=20)), database):
        assert await auth.register("ina") == 201
        device = await auth.device("ina", ip=shared)
        attack = [(await auth.log_in(f"name-{n}", "guess", ip=shared))[0] for n in range(22)]
        assert attack == [401] * 21 + [429]
        assert (await auth.log_in("ina", ip=shared))[0] == 429
        assert (await auth.log_in("ina", ip=shared, device=device))[0] == 200


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_guesses_for_an_account_from_many_addresses_do_not_lock_out_its_known_device(auth: Auth) -> None:
    assert [await auth.register(name) for name in ("jon", "jim")] == [201, 201]
    device, others = await auth.device("jon"), await auth.device("jim")
    assert await auth.statuses("jon", FREE + 2) == [401] * (FREE + 1) + [429]
    forged = device[:-2] + ("AA" if device[-2:] != "AA" else "BB")
    for wrong in (
        "",
        others,
        forged,
        device.partition(".")[0],
        f"x{device}",
        "." + device.partition(".")[2],
        "x" * 5000,
    ):
        assert (await auth.log_in("jon", device=wrong))[0] == 429, wrong
    assert (await auth.log_in("jon", device=device))[0] == 200


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_guesses_of_a_known_device_slow_down_this_device_and_nobody_else(auth: Auth) -> None:
    assert await auth.register("kim") == 201
    device, another = await auth.device("kim"), await auth.device("kim")
    guesses = [(await auth.log_in("kim", "guess", device=device))[0] for _ in range(FREE + 2)]
    assert guesses == [401] * (FREE + 1) + [429]
    assert (await auth.log_in("kim", device=device))[0] == 429
    assert (await auth.log_in("kim", device=another))[0] == 200
    assert (await auth.log_in("kim"))[0] == 200
    await auth.let_time_pass()
    assert (await auth.log_in("kim", device=device))[0] == 200


async def test_two_senders_cannot_keep_the_owner_out_by_guesses_less_than_half_a_minute_apart(
    serve: Serve, database: Database
) -> None:
    async for auth in opened(await keyed(await serve("auth", free_failures_per_account=20)), database):
        assert await auth.register("lea") == 201
        for n in range(30):
            assert (await auth.log_in("lea", "guess", ip=f"203.0.113.{n % 2}"))[0] == 401
            await auth.let_seconds_pass(15)
        assert (await auth.log_in("lea"))[0] == 200


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_all_addresses_of_one_ipv6_customer_count_as_one(lenient_auth: Auth) -> None:
    here = [(await lenient_auth.log_in(f"six {n}", ip=f"2001:db8:1:2:{n:x}::1"))[0] for n in range(5)]
    assert here == [401] * 4 + [429]
    assert (await lenient_auth.log_in("six", ip="2001:db8:1:3::1"))[0] == 401


@on_one_service
@pytest.mark.parametrize("ip", [b"", b"x" * 8000, b"2001:db8::1", b"a,b", b"\xff", "\u0661".encode(), b"'; --"])
async def test_any_value_of_the_address_header_is_handled(auth: Auth, ip: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", auth.client.port)
    body = b'{"username":"from afar","password":"guess"}'
    writer.write(
        b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Real-IP: "
        % len(body)
    )
    writer.write(ip + b"\r\n\r\n" + body)
    async with asyncio.timeout(3):
        assert (await reader.readline()).split()[1] in (b"401", b"429")
    writer.close()


async def guess_at_once(auth: Auth, username: str, compared: list[bool]) -> int:
    """Send fifty guesses at once; return how many were compared with the password."""
    compared.clear()
    answers = await asyncio.gather(*(auth.log_in(username, f"guess {n}") for n in range(50)))
    assert {status for status, _, _ in answers} == {401, 429}, answers
    return len(compared)


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_guesses_at_once_are_compared_no_more_often_than_one_after_another(
    auth: Auth, compared: list[bool]
) -> None:
    assert await auth.register("dag") == 201
    assert await guess_at_once(auth, "dag", compared) == FREE + 1


@pytest.mark.usefixtures("long_waits")
async def test_guesses_at_once_exceed_the_limit_at_most_by_the_concurrent_hashes(
    serve: Serve, database: Database, compared: list[bool]
) -> None:
    async for auth in opened(
        await keyed(await serve("auth", hashes_at_once=4, free_failures_per_account=FREE)), database
    ):
        assert await auth.register("dag") == 201
        assert FREE <= await guess_at_once(auth, "dag", compared) <= FREE + 4


@on_one_service
@pytest.mark.usefixtures("long_waits")
async def test_without_the_wait_more_guesses_at_once_are_compared(
    auth: Auth, compared: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never_blocked(*_: Any) -> float:
        return 0.0

    monkeypatch.setattr(store, "blocked_seconds", never_blocked)
    assert await guess_at_once(auth, "eli", compared) > FREE + 1


async def spread(auth: Auth, names: list[str]) -> float:
    """The ratio of the slowest to the fastest name: medians of the CPU time of this process, which runs the service."""
    seen: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(15):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            assert (await auth.log_in(name, "guess"))[0] == 401
            seen[name].append(time.process_time() - began)
    medians = [median(times) for times in seen.values()]
    return max(medians) / min(medians)


@on_one_service
async def test_the_time_of_an_answer_does_not_reveal_if_a_name_exists(
    lenient_auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [await lenient_auth.register(name) for name in ("fay", "fey")] == [201, 201]
    await lenient_auth.disable("fey")
    names, spreads = ["fay", "fey", "nobody"], [9.0]
    while min(spreads) >= 1.2 and len(spreads) < 7:  # other processes use this machine, too
        spreads.append(await spread(lenient_auth, names))
    assert min(spreads) < 1.2, spreads

    real = Passwords.is_right

    async def hasty(self: Passwords, known: Credential | None, password: str) -> bool:
        return known is not None and await real(self, known, password)

    monkeypatch.setattr(Passwords, "is_right", hasty)
    assert await spread(lenient_auth, names) > 1.5  # without a hash for unknown names, the time reveals them


@on_one_service
async def test_passwords_are_compared_in_other_threads_and_a_long_queue_is_refused(
    lenient_auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison takes 30 ms of CPU: in the event loop, all other requests would wait for it."""
    assert await lenient_auth.register("gil") == 201
    threads: list[str] = []
    real = PasswordHasher.verify

    def verify(self: PasswordHasher, *arguments: Any) -> bool:
        threads.append(threading.current_thread().name)
        return real(self, *arguments)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    answers = await asyncio.gather(*(lenient_auth.log_in("gil") for _ in range(40)))
    assert {status for status, _, _ in answers} == {200, 429}
    assert {name.rpartition("_")[0] for name in threads} == {"passwords"}
    assert (await lenient_auth.log_in("gil"))[0] == 200


@on_one_service
async def test_only_one_of_many_registrations_of_a_name_succeeds_and_publishes_one_event(auth: Auth) -> None:
    statuses = await asyncio.gather(*(auth.register("hal", f"{PASSWORD} {n}") for n in range(20)))
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 429}
    sql = "select key from outbox where type = 'UserRegistered' and convert_from(value, 'UTF8') like '%\"hal\"%'"
    made = await auth.conn.fetch("select user_id::text from credentials where username = 'hal'")
    assert len(made) == 1
    assert await auth.conn.fetch(sql) == made


async def test_the_administrators_name_cannot_be_registered_even_before_the_administrator_exists(
    serve: Serve, database: Database
) -> None:
    async for auth in opened(await serve("auth", only=["api"]), database):
        assert await auth.register("admin") == 409
        assert await auth.conn.fetchval("select count(*) from credentials") == 0
