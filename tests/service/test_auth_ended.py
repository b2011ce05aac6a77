"""A session that ended is refused by every service, at its own port too, whatever happens to auth."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from asyncpg import Pool

from auth import endings
from auth.endings import Endings
from shared.errors import Unavailable
from shared.web import verification
from shared.web.verification import Ended, EndedSessions
from tests.builders import eventually
from tests.conftest import Database
from tests.service.conftest import Client, serving

ANN = {"username": "ann", "password": "correct horse"}


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Client]:
    async with serving("auth", database.url_for("auth")) as client:
        await registered(client)
        yield client


@pytest.fixture
async def orders(database: Database, auth: Client) -> AsyncIterator[Client]:
    """The orders service, which requires tokens of `auth`."""
    keys = str(auth.make_url("/auth/jwks.json"))
    async with serving("orders", database.url_for("orders"), auth_jwks_url=keys) as client:
        yield client


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("auth")
    return made


async def registered(client: Client) -> None:
    async def is_registered() -> bool:
        return (await client.post("/auth/register", json=ANN)).status in {201, 409}

    await eventually(is_registered)


async def log_in(auth: Client) -> dict[str, Any]:
    async def logged_in() -> dict[str, Any] | None:
        answer = await auth.post("/auth/login", json=ANN)
        return await answer.json() if answer.status == 200 else None

    found: dict[str, Any] = await eventually(logged_in)
    return found


async def log_out(auth: Client, tokens: dict[str, Any]) -> None:
    assert (await auth.post("/auth/logout", json={"refresh_token": tokens["refresh_token"]})).status == 204


async def status(orders: Client, tokens: dict[str, Any]) -> int:
    return (await orders.get("/orders/", headers={"Authorization": f"Bearer {tokens['token']}"})).status


async def until_refused(orders: Client, tokens: dict[str, Any]) -> None:
    async def is_refused() -> bool:
        return await status(orders, tokens) == 401

    await eventually(is_refused)


async def end(pool: Pool, count: int) -> set[str]:
    """Add sessions that have just ended."""
    ids = [uuid4() for _ in range(count)]
    await pool.execute(
        "insert into sessions (id, user_id, secret_hash, expires_at, revoked_at) "
        "select id, (select min(user_id) from credentials), '', now() + interval '1 day', now() "
        "from unnest($1::uuid[]) id",
        ids,
    )
    return {id_.hex for id_ in ids}


def clock_of(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a module sees, and no other."""
    now = [1000.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    return now


async def test_a_revoked_token_is_refused_at_the_port_of_another_service(auth: Client, orders: Client) -> None:
    stolen, other = await log_in(auth), await log_in(auth)
    assert [await status(orders, tokens) for tokens in (stolen, other)] == [200, 200]
    await log_out(auth, stolen)
    await until_refused(orders, stolen)
    answer = await orders.get("/orders/", headers={"Authorization": f"Bearer {stolen['token']}"})
    assert (await answer.json())["detail"] == "the session is over"
    assert await status(orders, other) == 200


async def test_a_service_hears_of_sessions_that_ended_at_another_process_of_auth(
    auth: Client, orders: Client, database: Database
) -> None:
    async with serving("auth", database.url_for("auth")) as second:
        tokens = await log_in(second)
        assert await status(orders, tokens) == 200
        await log_out(second, tokens)
        await until_refused(orders, tokens)


async def test_ended_sessions_stay_over_while_auth_is_down_and_others_are_heard_of_when_it_is_back(
    database: Database, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "_RETRY_SECONDS", 0.1)
    async with AsyncExitStack() as stack:
        async with serving("auth", database.url_for("auth")) as auth:
            await registered(auth)
            first, second, third = [await log_in(auth) for _ in range(3)]
            keys, port = str(auth.make_url("/auth/jwks.json")), auth.port
            orders = serving("orders", database.url_for("orders"), auth_jwks_url=keys)
            client = await stack.enter_async_context(orders)
            await log_out(auth, first)
            await until_refused(client, first)
        assert [await status(client, tokens) for tokens in (first, second)] == [401, 200]
        session_id = second["refresh_token"].partition(".")[0]
        await pool.execute("update sessions set revoked_at = now() where id = $1::text::uuid", session_id)
        await stack.enter_async_context(serving("auth", database.url_for("auth"), port=port))
        await until_refused(client, second)
        assert [await status(client, tokens) for tokens in (first, third)] == [401, 200]


async def test_many_ended_sessions_come_in_answers_of_bounded_size(auth: Client, pool: Pool) -> None:
    ended = await end(pool, 2 * endings.MOST + 1)
    found, after, sizes = set[str](), "", list[int]()

    async def all_found() -> bool:
        nonlocal after
        answer = await (await auth.get("/auth/ended", params={"after": after, "wait": "1"})).json()
        found.update(answer["sessions"])
        sizes.append(len(answer["sessions"]))
        after = answer["next"]
        return found >= ended

    await eventually(all_found)
    assert max(sizes) == endings.MOST
    assert len(found) == sum(sizes)


async def test_only_a_follower_who_was_behind_gets_an_answer_at_once(auth: Client, pool: Pool) -> None:
    (known,) = await end(pool, 1)

    async def is_known() -> dict[str, Any] | None:
        answer: dict[str, Any] = await (await auth.get("/auth/ended")).json()
        return answer if known in answer["sessions"] else None

    first = await eventually(is_known)
    waiting = asyncio.create_task(auth.get("/auth/ended", params={"after": first["next"], "wait": "25"}))
    (news,) = await end(pool, 1)
    assert (await (await waiting).json())["sessions"] == [news]
    of_another_process = await (await auth.get("/auth/ended", params={"after": "0" * 8 + "-99"})).json()
    assert of_another_process["sessions"] == [known, news]


@pytest.mark.parametrize("query", ["after=x", "after=1", "after=00000000-", "wait=31", "wait=x", "before=1"])
async def test_a_wrong_question_is_400(auth: Client, query: str) -> None:
    assert (await auth.get(f"/auth/ended?{query}")).status == 400


async def test_a_session_that_a_slow_transaction_ended_is_not_missed(auth: Client, pool: Pool) -> None:
    """Its time is that of the transaction's begin, earlier than that of a session which was seen before."""
    found = Endings(pool, 900)
    (slow,) = await end(pool, 1)
    await pool.execute("update sessions set revoked_at = null")
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("update sessions set revoked_at = now() where id = $1::text::uuid", slow)
        (quick,) = await end(pool, 1)
        await found.reload()
        assert (await found.follow("", 0)).sessions == [quick]
    await found.reload()
    assert found.is_over(slow)
    assert set((await found.follow("", 0)).sessions) == {quick, slow}


async def test_sessions_are_forgotten_when_their_tokens_have_expired(
    auth: Client, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, now = Endings(pool, 900), clock_of(endings, monkeypatch)
    (old,) = await end(pool, 1)
    await found.reload()
    first = await found.follow("", 0)
    now[0] += 900
    await pool.execute("update sessions set revoked_at = now() - interval '900 seconds'")
    (new,) = await end(pool, 1)
    await found.reload()
    assert [found.is_over(one) for one in (old, new)] == [True, True]
    now[0] += first.keep_seconds - 900
    await pool.execute("update sessions set revoked_at = revoked_at - interval '60 seconds'")
    await found.reload()
    assert [found.is_over(one) for one in (old, new)] == [False, True]
    assert (await found.follow(first.next, 0)).sessions == [new]  # the numbers go on


async def test_without_any_reading_nothing_is_said_and_at_the_end_nobody_waits(pool: Pool) -> None:
    found = Endings(pool, 900)
    with pytest.raises(Unavailable):
        await found.follow("", 0)
    with pytest.raises(Unavailable):
        found.is_over("x")
    await found.reload()
    waiting = asyncio.create_task(found.follow("", 30))
    await asyncio.sleep(0)
    found.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_a_follower_forgets_sessions_and_keeps_what_it_knows_when_auth_answers_nonsense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = clock_of(verification, monkeypatch), list[str]()
    answers: list[Any] = [
        EndedSessions(sessions=["a", "b"], next="x-2", keep_seconds=960),
        EndedSessions(sessions=["b", "c"], next="y-2", keep_seconds=960),  # auth was started again
        EndedSessions(sessions=[], next="y-2", keep_seconds=960),
    ]

    async def follow(after: str) -> EndedSessions:
        asked.append(after)
        return EndedSessions.model_validate(answers.pop(0))

    ended = Ended(follow)
    await ended.follow_once()
    now[0] += 500
    await ended.follow_once()
    assert [one in ended for one in "abcd"] == [True, True, True, False]
    for nonsense in ({}, {"sessions": "abc", "next": "x", "keep_seconds": 1}, None):
        answers.insert(0, nonsense)
        with pytest.raises(ValueError, match="validation error"):
            await ended.follow_once()
    assert [one in ended for one in "abcd"] == [True, True, True, False]
    now[0] += 500
    await ended.follow_once()
    assert [one in ended for one in "abc"] == [False, False, True]
    assert asked == ["", "x-2", "y-2", "y-2", "y-2", "y-2"]


async def test_a_follower_ends_at_once_when_its_service_stops() -> None:
    asked, stop = asyncio.Event(), asyncio.Event()

    async def follow(_: str) -> EndedSessions:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.create_task(Ended(follow).run(stop))
    await asked.wait()
    stop.set()
    async with asyncio.timeout(2):
        await running
