"""Every SQL statement of the users service."""

from collections.abc import Sequence
from typing import Any

from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection
from users.domain import Profile

_COLUMNS = (
    "user_id, username, display_name, email, version, deleted_at is not null as is_deleted, created_at, updated_at"
)

# The guard of "a profile is created once and stays deleted": a row that exists is not changed.
_ADD = """
insert into profiles (user_id, username) select * from unnest($1::bigint[], $2::text[]) on conflict do nothing
"""

# The row is written only under the lock of the user's id, so the row that was read before is the row that is replaced.
_SAVE = f"""
with saved as (
  update profiles set username = $2, display_name = $3, email = $4, version = $5,
         deleted_at = case when $6 then now() end, updated_at = now()
   where user_id = $1 returning *),
published as ({outbox.insert_sql(7, "row.key in (select user_id::text from saved)")})
select {_COLUMNS} from saved
"""

_PAGE = f"""
select {_COLUMNS} from profiles
 where user_id > $1 and deleted_at is null and ($3::text is null or username = $3) order by user_id limit $2
"""


async def add(conn: Connection, user_ids: Sequence[int], usernames: Sequence[str]) -> None:
    """Insert profiles for users who never had one."""
    await conn.execute(_ADD, user_ids, usernames)


async def get(conn: Connection, user_id: int) -> Profile | None:
    """Read one profile, also if it is deleted."""
    row = await conn.fetchrow(f"select {_COLUMNS} from profiles where user_id = $1", user_id)
    return None if row is None else _profile(row)


async def save(conn: Connection, profile: Profile, events: Sequence[Encoded] = ()) -> Profile:
    """Store a profile and append events, in the caller's transaction, which holds the lock of the user's id."""
    p = profile
    row: Any = await conn.fetchrow(
        _SAVE, p.id, p.username, p.display_name, p.email, p.version, p.is_deleted, *outbox.columns(events)
    )
    return _profile(row)


async def page(conn: Connection, after: int, limit: int, username: str | None = None) -> list[Profile]:
    """List profiles with ids above `after`, in the order of ids; with `username`, only that user's."""
    return [_profile(row) for row in await conn.fetch(_PAGE, after, limit, username)]


def _profile(row: Any) -> Profile:
    values = dict(row)
    return Profile(id=values.pop("user_id"), **values)
