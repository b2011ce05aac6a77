"""Every SQL statement of the auth service. Times are the database's, so that all processes agree on them."""

from collections.abc import Sequence
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from auth.domain import Bucket, Credential, Key, Refresh, Sender, Session
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection

# Inserts a credential together with its event, or neither. The unique name is the guard: of two registrations at the
# same time, one gets no row.
_ADD = f"""
with added as (
  insert into credentials (user_id, username, password_hash, roles) values ($1, $2, $3, $4)
  on conflict (username) do nothing returning user_id),
published as ({outbox.insert_sql(5, "row.key in (select user_id::text from added)")})
select user_id from added
"""

# Inserts a session if the credential has not changed since the password was compared. The share lock is the guard. If
# another transaction disables the credential or changes its password or roles, one of the two waits for the other:
# either no session is inserted, or the other transaction ends it too.
_ADD_SESSION = """
insert into sessions (id, user_id, secret_hash, expires_at, user_agent)
select $1, user_id, $2, now() + make_interval(secs => $3), $7
  from credentials where user_id = $4 and password_hash = $5 and roles = $6 and disabled_at is null for share
"""

_OF_SESSION = "c.user_id = s.user_id and c.disabled_at is null and s.revoked_at is null and s.expires_at > now()"

# Replaces the secret of a session if the old one is the newest. No row is returned if the session is over, or if the
# secret was replaced before.
_ROTATE_SESSION = f"""
update sessions s set secret_hash = $3, successor_salt = $4, rotated_by = $5, refreshed_at = now()
  from credentials c
 where s.id = $1 and s.secret_hash = $2 and {_OF_SESSION}
returning c.user_id, c.username, c.password_hash, c.roles
"""

# Finds how a session's secret was replaced in the last 10 s by a request of the same device, whose answer was perhaps
# lost. No row is returned if another device replaced it, or if it was replaced earlier.
_LAST_ROTATION = f"""
select s.successor_salt, s.secret_hash, c.user_id, c.username, c.password_hash, c.roles
  from sessions s, credentials c
 where s.id = $1 and s.rotated_by = $2 and s.refreshed_at > now() - interval '10 seconds' and {_OF_SESSION}
"""

# Replaces the name by a name that nobody can register.
_DISABLE = """
update credentials
   set disabled_at = now(), username = '~' || user_id, password_hash = '', version = version + 1, updated_at = now()
 where user_id = any($1::bigint[]) and disabled_at is null
"""

# A leaky bucket: `failures` is a number with a fraction, so failures at any distance are forgotten at the same rate.
# After the free failures, the wait doubles up to half a minute: two guesses a minute. If the next attempt need not
# wait, the stored time is one second in the past, because now() of a transaction that began earlier is earlier.
_FAILED = """
insert into throttles as t (key, failures, blocked_until) values ($1, 1, now() - interval '1 second')
on conflict (key) do update
   set (failures, blocked_until, seen_at) = (
     select counted, now() + make_interval(secs => case when counted > $2 then least(2.0 ^ least(counted - $2, 10), 30)
                                                   else -1 end), now()
       from (select greatest(0, t.failures - extract(epoch from now() - t.seen_at)::float8 / $3) + 1) c(counted))
"""

# The new key signs after the lead time, in which every service fetches it; without another key it signs at once. The
# other keys are published until the last token that they signed has expired.
_ROTATE_KEYS = """
with next as (
  insert into signing_keys (kid, private_key, signs_from)
  select $1, $2, now() + make_interval(secs => case when exists (select from signing_keys) then $3 else 0 end)
  returning signs_from)
update signing_keys set expires_at = next.signs_from + make_interval(secs => $4) from next where expires_at is null
"""


async def next_id(conn: Connection) -> int:
    """Take a user id from the sequence."""
    user_id: int = await conn.fetchval("select nextval('credentials_user_id_seq')")
    return user_id


async def add(conn: Connection, user: Credential, events: Sequence[Encoded]) -> bool:
    """Insert a credential with its events. False if the name is taken."""
    values = (user.user_id, user.username, user.password_hash, user.roles)
    return await conn.fetchval(_ADD, *values, *outbox.columns(events)) is not None


_CREDENTIAL = "select user_id, username, password_hash, roles from credentials where disabled_at is null"


async def find(conn: Connection, username: str) -> Credential | None:
    """Read the credential of a username, or None if there is none or it is disabled."""
    row = await conn.fetchrow(f"{_CREDENTIAL} and username = $1", username)
    return Credential(**row) if row else None


async def get(conn: Connection, user_id: int) -> Credential | None:
    """Read the credential of a user, or None if there is none or it is disabled."""
    row = await conn.fetchrow(f"{_CREDENTIAL} and user_id = $1", user_id)
    return Credential(**row) if row else None


async def set_password(conn: Connection, user: Credential, password_hash: str) -> bool:
    """Replace a password's hash. False if the password has changed since the credential was read."""
    changed = await conn.execute(
        "update credentials set password_hash = $3, version = version + 1, updated_at = now() "
        "where user_id = $1 and password_hash = $2 and disabled_at is null",
        *(user.user_id, user.password_hash, password_hash),
    )
    return changed == "UPDATE 1"


async def lock_with_role(conn: Connection, role: str) -> set[int]:
    """Read who has a role. No other transaction takes the role from one of them until this one ends."""
    rows = await conn.fetch(
        "select user_id from credentials where $1 = any(roles) and disabled_at is null "
        "order by user_id for no key update",
        role,
    )
    return {row["user_id"] for row in rows}


async def give_role(conn: Connection, user_id: int, role: str) -> None:
    """Add a role, if the user does not have it."""
    await conn.execute(
        "update credentials set roles = array_append(roles, $2), version = version + 1, updated_at = now() "
        "where user_id = $1 and $2 <> all(roles)",
        *(user_id, role),
    )


async def take_role(conn: Connection, user_id: int, role: str) -> None:
    """Remove a role."""
    await conn.execute(
        "update credentials set roles = array_remove(roles, $2), version = version + 1, updated_at = now() "
        "where user_id = $1",
        *(user_id, role),
    )


async def disable(conn: Connection, user_ids: Sequence[int]) -> set[int]:
    """End logins permanently, with their sessions. Returns the ids that exist, whether ended now or before."""
    await conn.execute(_DISABLE, user_ids)
    await end_sessions(conn, user_ids)
    await conn.execute("update sessions set user_agent = '' where user_id = any($1::bigint[])", user_ids)
    rows = await conn.fetch("select user_id from credentials where user_id = any($1::bigint[])", user_ids)
    return {row["user_id"] for row in rows}


async def add_session(conn: Connection, first: Refresh, user: Credential, seconds: int, user_agent: str) -> bool:
    """Insert a session. False if the user's credential has changed since it was read."""
    values = (first.session_id, first.digest, seconds, user.user_id, user.password_hash, user.roles, user_agent)
    return await conn.execute(_ADD_SESSION, *values) == "INSERT 0 1"


async def rotate_session(
    conn: Connection, old: Refresh, new: Refresh, salt: bytes, sender: Sender
) -> Credential | None:
    """Replace a session's newest secret. Returns the session's user, or None if `old` is not the newest."""
    values = (old.session_id, old.digest, new.digest, salt, sender.digest)
    row = await conn.fetchrow(_ROTATE_SESSION, *values)
    return Credential(**row) if row else None


async def last_rotation(conn: Connection, session_id: UUID, sender: Sender) -> tuple[bytes, bytes, Credential] | None:
    """The salt and the newest secret's hash of a session that the same device refreshed just now, and its user."""
    row = await conn.fetchrow(_LAST_ROTATION, session_id, sender.digest)
    if row is None:
        return None
    salt, digest, *user = row
    return salt, digest, Credential(*user)


async def sessions(conn: Connection, user_id: int, limit: int) -> list[Session]:
    """Read the sessions of a user that are not over, those that were used last first."""
    rows = await conn.fetch(
        "select id, created_at, refreshed_at as last_used_at, user_agent from sessions "
        "where user_id = $1 and revoked_at is null and expires_at > now() order by refreshed_at desc, id limit $2",
        *(user_id, limit),
    )
    return [Session(**row) for row in rows]


async def end_session(conn: Connection, session_id: UUID, digest: bytes | None = None) -> int | None:
    """End a session; with `digest`, only if its newest secret has this hash. Returns its user, or None if none did."""
    user_id: int | None = await conn.fetchval(
        "update sessions set revoked_at = now() "
        "where id = $1 and revoked_at is null and ($2::bytea is null or secret_hash = $2) returning user_id",
        *(session_id, digest),
    )
    return user_id


async def end_own_session(conn: Connection, user_id: int, session_id: UUID) -> bool:
    """End a session of this user. Returns False if they have no such session, or it was over."""
    ended = await conn.execute(
        "update sessions set revoked_at = now() "
        "where id = $1 and user_id = $2 and revoked_at is null and expires_at > now()",
        *(session_id, user_id),
    )
    return ended == "UPDATE 1"


async def end_sessions(conn: Connection, user_ids: Sequence[int], but: UUID | None = None) -> None:
    """End all sessions of users, except the session `but`."""
    await conn.execute(
        "update sessions set revoked_at = now() "
        "where user_id = any($1::bigint[]) and revoked_at is null and id is distinct from $2",
        *(user_ids, but),
    )


async def ended_sessions(conn: Connection, seconds: float) -> list[tuple[str, float]]:
    """Read the sessions that ended in the last `seconds`, the oldest first, and how many seconds ago each ended."""
    rows = await conn.fetch(
        "select id, extract(epoch from now() - revoked_at)::float8 as age from sessions "
        "where revoked_at > now() - make_interval(secs => $1) order by revoked_at, id",
        seconds,
    )
    return [(row["id"].hex, row["age"]) for row in rows]


async def blocked_seconds(conn: Connection, buckets: Sequence[Bucket]) -> float:
    """The longest time for which one of these buckets still makes attempts wait, in seconds."""
    seconds: float | None = await conn.fetchval(
        "select extract(epoch from max(blocked_until) - now())::float8 from throttles where key = any($1::bytea[])",
        [bucket.key for bucket in buckets],
    )
    return max(0.0, seconds or 0.0)


async def failed(conn: Connection, bucket: Bucket) -> None:
    """Count a wrong password. After the free ones, the next attempt must wait."""
    await conn.execute(_FAILED, bucket.key, bucket.free, bucket.leak_seconds)


async def forgive(conn: Connection, buckets: Sequence[Bucket]) -> None:
    """Empty these buckets."""
    await conn.execute("delete from throttles where key = any($1::bytea[])", [bucket.key for bucket in buckets])


async def keys(conn: Connection) -> list[tuple[Key, bool]]:
    """Read the published keys, the newest first, and for each whether it signs already."""
    rows = await conn.fetch(
        "select kid, private_key, signs_from <= now() as signs from signing_keys "
        "where expires_at is null or expires_at > now() order by created_at desc, kid"
    )
    return [(Key(r["kid"], Ed25519PrivateKey.from_private_bytes(r["private_key"])), r["signs"]) for r in rows]


async def rotate_keys(conn: Connection, kid: str, private: bytes, lead_seconds: int, token_seconds: int) -> None:
    """Add a key that signs after `lead_seconds`, and let the others expire."""
    await conn.execute(_ROTATE_KEYS, kid, private, lead_seconds, token_seconds)


async def add_first_key(conn: Connection, kid: str, private: bytes) -> None:
    """Add a key that signs at once, if there is none. The lock prevents a second one from another process."""
    await conn.execute("lock table signing_keys in share row exclusive mode")
    await conn.execute(
        "insert into signing_keys (kid, private_key, signs_from) select $1, $2, now() "
        "where not exists (select from signing_keys where expires_at is null or expires_at > now())",
        *(kid, private),
    )


async def sweep(conn: Connection) -> None:
    """Delete sessions and keys that expired a day ago, and counts of wrong passwords older than an hour."""
    await conn.execute("delete from sessions where expires_at < now() - interval '1 day'")
    await conn.execute("delete from signing_keys where expires_at < now() - interval '1 day'")
    await conn.execute("delete from throttles where seen_at < now() - interval '1 hour'")
