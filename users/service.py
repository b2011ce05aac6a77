"""The use cases of users: make profiles, look them up, change and delete them. Who writes holds the lock of the id."""

from collections.abc import Mapping
from typing import Any

from shared import errors
from shared.delivery import events
from shared.postgres.connections import Connection
from users import domain, store
from users.domain import Profile


class ProfileNotFound(errors.NotFound):
    """No profile has this id, or none any more."""

    def __init__(self) -> None:
        super().__init__("not found")


class ProfileNotMade(errors.NotFound):
    """Somebody has a login, and the news of it is still on its way here."""

    def __init__(self) -> None:
        super().__init__("your profile is made in a moment: try again")


async def register(conn: Connection, usernames: Mapping[int, str]) -> None:
    """Make the profiles of users who registered; who has or had one keeps it as it is."""
    await store.add(conn, list(usernames), list(usernames.values()))


async def get(conn: Connection, user_id: int) -> Profile:
    """Read one profile. Raises `ProfileNotFound`."""
    profile = await store.get(conn, user_id)
    if profile is None or profile.is_deleted:
        raise ProfileNotFound
    return profile


async def own(conn: Connection, user_id: int) -> Profile:
    """Read the profile of somebody who can log in. Raises `ProfileNotMade`, or `ProfileNotFound` once it is deleted."""
    profile = await store.get(conn, user_id)
    if profile is None:
        raise ProfileNotMade
    if profile.is_deleted:
        raise ProfileNotFound
    return profile


async def change(conn: Connection, user_id: int, values: Mapping[str, Any]) -> Profile:
    """Give a profile's fields new values. Raises `ProfileNotFound`."""
    before = await get(conn, user_id)
    after = domain.change(before, values)
    return before if after == before else await store.save(conn, after)


async def delete(conn: Connection, user_id: int) -> None:
    """Delete a profile and say so, once; what is deleted already stays so. Raises `ProfileNotFound`."""
    before = await store.get(conn, user_id)
    if before is None:
        raise ProfileNotFound
    after, facts = domain.delete(before)
    if facts:
        await store.save(conn, after, [events.encode(fact) for fact in facts])
