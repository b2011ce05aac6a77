"""The use cases of users: create, read, change and delete profiles. A writer holds the lock of the user's id."""

from collections.abc import Mapping
from typing import Any

from shared import errors
from shared.delivery import events
from shared.postgres import Connection
from users import domain, store
from users.domain import Profile


class ProfileNotFound(errors.NotFound):
    """No profile has this id, or it is deleted."""


class ProfileNotMade(errors.NotFound):
    """The user has a login, but the event UserRegistered has not arrived here yet."""

    text = "your profile is made in a moment: try again"


async def register(conn: Connection, usernames: Mapping[int, str]) -> None:
    """Create profiles. A user who has or had a profile keeps it as it is."""
    await store.add(conn, list(usernames), list(usernames.values()))


async def get(conn: Connection, user_id: int) -> Profile:
    """Read one profile. Raises `ProfileNotFound`."""
    profile = await store.get(conn, user_id)
    if profile is None or profile.is_deleted:
        raise ProfileNotFound
    return profile


async def own(conn: Connection, user_id: int) -> Profile:
    """Read the profile of a user who can log in. Raises `ProfileNotMade`, or `ProfileNotFound` if it is deleted."""
    profile = await store.get(conn, user_id)
    if profile is None:
        raise ProfileNotMade
    if profile.is_deleted:
        raise ProfileNotFound
    return profile


async def change(conn: Connection, user_id: int, values: Mapping[str, Any]) -> Profile:
    """Change fields of a profile. Raises `ProfileNotFound`."""
    before = await get(conn, user_id)
    after = domain.change(before, values)
    return before if after == before else await store.save(conn, after)


async def delete(conn: Connection, user_id: int) -> None:
    """Delete a profile and write the event, once. Raises `ProfileNotFound` if there never was one."""
    before = await store.get(conn, user_id)
    if before is None:
        raise ProfileNotFound
    after, new = domain.delete(before)
    if new:
        await store.save(conn, after, [events.encode(event) for event in new])
