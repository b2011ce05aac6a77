"""A deleted user stays logged out, whatever else is in the batch or happens at the same time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asyncpg import Pool

from auth import consumer, service, store
from auth.domain import Sender
from auth.endings import Endings
from auth.service import Keyring, Limits, Logins, Passwords, Tokens
from contracts.users import UserDeleted
from shared import postgres
from shared.delivery.handling import Handling
from shared.errors import Unauthenticated
from shared.web.audit import Trail
from tests.builders import eventually, record

PASSWORD = "correct horse"
HERE = Sender("192.0.2.1")


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("auth")
    return made


@pytest.fixture
def handling(pool: Pool) -> Handling:
    return Handling(pool, "auth", consumer.HANDLERS)


@pytest.fixture
async def keyring(pool: Pool) -> Keyring:
    made = Keyring(pool)
    await made.reload()
    return made


@pytest.fixture
def endings(pool: Pool) -> Endings:
    return Endings(pool, 900)


@pytest.fixture
def logins(pool: Pool, keyring: Keyring) -> Logins:
    return Logins(pool, keyring, Passwords(2), Limits(900, 3600, 1000, 1000, 1000), lambda: None, Trail(pool))


def deleted(user_id: object, version: int = 2) -> UserDeleted:
    return UserDeleted(version=version, user_id=str(user_id))


async def log_in(logins: Logins, username: str) -> Tokens:
    return await logins.log_in(username, PASSWORD, HERE)


async def live_sessions(pool: Pool) -> int:
    found: int = await pool.fetchval("select count(*) from sessions where revoked_at is null")
    return found


async def test_a_deleted_user_is_logged_out_everywhere_and_cannot_log_in_again(
    pool: Pool, handling: Handling, logins: Logins, endings: Endings
) -> None:
    ann, bob = [await logins.register(name, PASSWORD, HERE) for name in ("ann", "bob")]
    sessions = [await log_in(logins, "ann") for _ in range(3)]
    other = await log_in(logins, "bob")
    await handling.handle([record(deleted(ann))])
    ended = "select count(*) from sessions where user_id = $1 and revoked_at is not null"
    assert await pool.fetchval(ended, ann) == 3  # before any refresh, which would end its session itself
    for session in sessions:
        with pytest.raises(Unauthenticated):
            await logins.refresh(session.refresh, HERE)
    for name in ("ann", f"~{ann}"):
        with pytest.raises(Unauthenticated):
            await log_in(logins, name)
    await endings.reload()
    over = [endings.is_over(session.refresh.partition(".")[0]) for session in (*sessions, other)]
    assert over == [True] * 3 + [False]
    assert (await logins.refresh(other.refresh, HERE)).seconds == 900
    assert await pool.fetchval("select password_hash from credentials where user_id = $1", ann) == ""
    assert await pool.fetchval("select disabled_at from credentials where user_id = $1", bob) is None


async def test_a_new_user_with_the_name_of_a_deleted_user_is_another_user(handling: Handling, logins: Logins) -> None:
    ann = await logins.register("ann", PASSWORD, HERE)
    session = await log_in(logins, "ann")
    await handling.handle([record(deleted(ann))])
    assert await logins.register("ann", PASSWORD, HERE) != ann
    await handling.handle([record(deleted(ann, version=3))])
    await log_in(logins, "ann")
    with pytest.raises(Unauthenticated):
        await logins.refresh(session.refresh, HERE)


async def test_a_repeated_deletion_changes_nothing(pool: Pool, handling: Handling, logins: Logins) -> None:
    ann = await logins.register("ann", PASSWORD, HERE)
    first, again = record(deleted(ann)), record(deleted(ann))
    await handling.handle([first, first])
    row = await pool.fetchrow("select * from credentials")
    await handling.handle([first])
    await handling.handle([again, record(deleted(ann, version=3))])
    assert await pool.fetchrow("select * from credentials") == row
    assert await pool.fetchval("select count(*) from parked") == 0


WEIRD = [
    "999999", "0", "-1", "+{}", "0{}", "00{}", " {}", "{} ", "{}.0", "{}\n", "~{}", "{}_0", "\u0967", "\u00b2", "",
    "9223372036854775807", "9223372036854775808", "18446744073709551617", "9" * 400, "1e1", "0x1", "ann", "'; --",
]  # fmt: skip


async def test_deletions_of_unknown_ids_are_parked_alone(pool: Pool, handling: Handling, logins: Logins) -> None:
    users = [await logins.register(f"user{n}", PASSWORD, HERE) for n in range(6)]
    named, others = users[3], [user for user in users if user != users[3]]
    strange = [text.format(others[-1]) for text in WEIRD]
    arabic = str.maketrans("0123456789", "\u0660\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669")
    strange += [str(user).translate(arabic) for user in others]
    events = [record(deleted(id_)) for id_ in strange]
    await handling.handle([*events[:9], record(deleted(named)), *events[9:]])
    gone = await pool.fetch("select user_id from credentials where disabled_at is not null")
    assert [row[0] for row in gone] == [named]
    rows = await pool.fetch("select key, blocks from parked")
    assert sorted(row["key"] for row in rows) == sorted(strange)
    assert not any(row["blocks"] for row in rows)


async def waits_for_a_lock(pool: Pool) -> bool:
    """True if a session of this database waits for a lock of another transaction."""
    found: bool = await pool.fetchval(
        "select exists(select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )
    return found


async def log_in_meanwhile(
    pool: Pool, logins: Logins, change: Callable[[postgres.Connection], Awaitable[Any]]
) -> Tokens | BaseException:
    """Log in while `change` is made but not committed, so that the login begins with a valid credential."""
    async with postgres.transaction(pool) as conn:
        await change(conn)
        login = asyncio.create_task(log_in(logins, "ann"))

        async def is_waiting_or_done() -> bool:
            return login.done() or await waits_for_a_lock(pool)

        await eventually(is_waiting_or_done)
    return (await asyncio.gather(login, return_exceptions=True))[0]


def deleting(user_id: int) -> Callable[[postgres.Connection], Awaitable[Any]]:
    return lambda conn: service.disable(conn, [user_id])


def changing_the_password(user_id: int) -> Callable[[postgres.Connection], Awaitable[Any]]:
    async def change(conn: postgres.Connection) -> None:
        user = await store.get(conn, user_id)
        assert user is not None
        assert await store.set_password(conn, user, "another")
        await store.end_sessions(conn, [user_id])

    return change


def giving_a_role(user_id: int) -> Callable[[postgres.Connection], Awaitable[Any]]:
    return lambda conn: store.give_role(conn, user_id, "cook")


@pytest.mark.parametrize("changing", [deleting, changing_the_password, giving_a_role])
async def test_a_login_during_the_end_of_its_credential_starts_no_session(
    pool: Pool, logins: Logins, changing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await logins.register("ann", PASSWORD, HERE)
    found = await log_in_meanwhile(pool, logins, changing(ann))
    assert isinstance(found, Unauthenticated)
    assert await live_sessions(pool) == 0

    unguarded = store._ADD_SESSION.replace(" for share", "").replace(
        "and password_hash = $5 and roles = $6 and disabled_at is null", "and $5 <> '' and $6::text[] is not null"
    )
    monkeypatch.setattr(store, "_ADD_SESSION", unguarded)
    bob = await logins.register("bob", PASSWORD, HERE)
    await pool.execute("update credentials set username = user_id::text where user_id = $1", ann)
    await pool.execute("update credentials set username = 'ann' where user_id = $1", bob)
    assert isinstance(await log_in_meanwhile(pool, logins, changing(bob)), Tokens)
    assert await live_sessions(pool) == 1  # without the guard, the session outlives the credential


async def test_the_last_of_two_rotations_signs_even_if_it_takes_effect_first(pool: Pool, keyring: Keyring) -> None:
    async with postgres.transaction(pool) as conn:
        await service.rotate_keys(conn, 3600, 900)
    async with postgres.transaction(pool) as conn:
        last = await service.rotate_keys(conn, 0, 900)
    await keyring.reload()
    assert keyring.signing.kid == last
    await pool.execute("update signing_keys set signs_from = now() where signs_from > now()")
    await keyring.reload()
    assert keyring.signing.kid == last
    assert len(keyring.published()["keys"]) == 3


async def test_an_expired_session_cannot_be_refreshed(pool: Pool, logins: Logins) -> None:
    await logins.register("ann", PASSWORD, HERE)
    session = await log_in(logins, "ann")
    await pool.execute("update sessions set expires_at = now() - interval '1 second'")
    with pytest.raises(Unauthenticated):
        await logins.refresh(session.refresh, HERE)


async def test_an_ended_session_is_known_as_long_as_its_access_tokens_are_valid(pool: Pool, logins: Logins) -> None:
    await logins.register("ann", PASSWORD, HERE)
    session = await log_in(logins, "ann")
    session_id = session.refresh.partition(".")[0]
    await logins.log_out(session.refresh, HERE)
    for seconds, is_over in ((890, True), (1000, False)):
        await pool.execute("update sessions set revoked_at = now() - make_interval(secs => $1)", seconds)
        endings = Endings(pool, 900)
        await endings.reload()
        assert endings.is_over(session_id) is is_over


async def test_a_session_id_without_its_secret_logs_nobody_out(pool: Pool, logins: Logins) -> None:
    await logins.register("ann", PASSWORD, HERE)
    session = await log_in(logins, "ann")
    session_id = session.refresh.partition(".")[0]
    for secret in ("", "guessed", "x" * 43):
        await logins.log_out(f"{session_id}.{secret}", HERE)
    assert await live_sessions(pool) == 1
    assert (await logins.refresh(session.refresh, HERE)).access
