"""A user's registration and deletion have the same result in any order and when they are repeated."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest

from contracts.users import UserRegistered, read_id
from shared import postgres
from shared.delivery.handling import Handling
from shared.postgres import Pool
from tests.builders import record
from tests.conftest import OpenPool
from users import consumer, service, store

REGISTERED, NEW, DELETED = "registered", "registered by another record", "deleted"
STEPS = (REGISTERED, NEW, DELETED)
WAYS = [way for count in range(1, 5) for way in product(STEPS, repeat=count)]


@pytest.fixture
async def pool(open_pool: OpenPool) -> Pool:
    return await open_pool("users")


@pytest.fixture
def handling(pool: Pool) -> Handling:
    return Handling(pool, "users", consumer.HANDLERS)


def registered(user_id: object, username: str = "ann") -> UserRegistered:
    return UserRegistered(version=1, user_id=str(user_id), username=username)


async def delete(pool: Pool, user_id: int) -> bool:
    """Delete a profile; return False if the user never had one."""
    try:
        async with postgres.transaction(pool, keys=[str(user_id)]) as conn:
            await service.delete(conn, user_id)
    except service.ProfileNotFound:
        return False
    return True


async def change(pool: Pool, user_id: int, **values: str) -> None:
    async with postgres.transaction(pool, keys=[str(user_id)]) as conn:
        await service.change(conn, user_id, values)


async def follow(pool: Pool, handling: Handling, ways: dict[int, Sequence[str]]) -> None:
    """Run the n-th steps of all users together: one batch of registrations, then the deletions."""
    records = {user_id: record(registered(user_id)) for user_id in ways}
    for turn in range(max(map(len, ways.values()))):
        steps = {user_id: way[turn] for user_id, way in ways.items() if turn < len(way)}
        known = [records[user_id] for user_id, step in steps.items() if step == REGISTERED]
        new = [record(registered(user_id, "another")) for user_id, step in steps.items() if step == NEW]
        await handling.handle(known + new)
        for user_id in (user_id for user_id, step in steps.items() if step == DELETED):
            assert await delete(pool, user_id) == any(step != DELETED for step in ways[user_id][:turn])


def expected(way: Sequence[str]) -> tuple[Any, ...] | None:
    """A user's row and the number of UserDeleted events.

    The first registration counts, and then the first deletion.
    """
    first = next((n for n, step in enumerate(way) if step != DELETED), None)
    if first is None:
        return None
    if DELETED in way[first:]:
        return "", 2, True, 1
    return "ann" if way[first] == REGISTERED else "another", 1, False, 0


async def check(pool: Pool, ways: dict[int, Sequence[str]]) -> None:
    rows = await pool.fetch(
        "select user_id, username, version, deleted_at is not null, (select count(*) from outbox where "
        "key = user_id::text and type = 'UserDeleted' and topic = 'users.events') from profiles"
    )
    found = {row[0]: tuple(row)[1:] for row in rows}
    for user_id, way in ways.items():
        assert found.get(user_id) == expected(way), way
    assert await pool.fetchval("select count(*) from parked") == 0


async def test_every_order_and_every_repetition_converges(pool: Pool, handling: Handling) -> None:
    ways: dict[int, Sequence[str]] = dict(enumerate(WAYS, start=1))
    assert len(ways) == 120
    await follow(pool, handling, ways)
    await check(pool, ways)


async def test_without_the_rule_that_an_existing_row_is_kept_the_check_fails(
    pool: Pool, handling: Handling, monkeypatch: pytest.MonkeyPatch
) -> None:
    resurrect = "(user_id) do update set username = excluded.username, deleted_at = null"
    monkeypatch.setattr(store, "_ADD", store._ADD.replace("do nothing", resurrect))
    ways: dict[int, Sequence[str]] = {1: (REGISTERED, DELETED, NEW)}
    await follow(pool, handling, ways)
    with pytest.raises(AssertionError):
        await check(pool, ways)


async def test_a_repeated_registration_keeps_a_changed_profile(pool: Pool, handling: Handling) -> None:
    first = record(registered(1))
    await handling.handle([first, first])
    await change(pool, 1, display_name="Ann", email="ann@example.org")
    before = await pool.fetch("select * from profiles")
    await handling.handle([first, record(registered(1)), record(registered(1, "another"))])
    assert await pool.fetch("select * from profiles") == before
    assert await pool.fetchval("select count(*) from outbox") == 0


async def test_several_registrations_of_one_user_in_one_batch_create_one_profile(
    pool: Pool, handling: Handling
) -> None:
    await handling.handle([record(registered(1, name)) for name in ("first", "second", "third")])
    assert [tuple(row) for row in await pool.fetch("select user_id, username from profiles")] == [(1, "first")]


STRANGE = ["0", "-1", "+1", "007", "x", "u1", "1.0", "1e3", " 7", "7\n", "\u0667", "²", str(2**63), "1" * 200]


async def test_events_with_invalid_ids_are_parked_alone(pool: Pool, handling: Handling) -> None:
    good = {1: "ann", 7: "bob", 2**63 - 1: "carla"}
    events = [registered(user_id, name) for user_id, name in good.items()] + [registered(text) for text in STRANGE]
    await handling.handle([record(event) for event in events[::-1]])
    assert dict(await pool.fetch("select user_id, username from profiles")) == good
    rows = await pool.fetch("select key, blocks, attempts from parked")
    assert sorted(tuple(row) for row in rows) == sorted((text, False, 1) for text in STRANGE)


@pytest.mark.parametrize("text", ["", *STRANGE])
def test_an_id_in_another_notation_is_not_read(text: str) -> None:
    assert read_id(text) is None


@pytest.mark.parametrize("number", [1, 10, 2**63 - 1])
def test_an_id_in_its_only_notation_is_read(number: int) -> None:
    assert read_id(str(number)) == number
