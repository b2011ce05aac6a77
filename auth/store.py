"""Every SQL statement of the auth service. Times are the database's, so that all processes agree on them."""

from collections.abc import Sequence
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from auth.domain import Credential, Key, Refresh
from shared.postgres.connections import Connection

# The unique name is the guard: of two who register at once, one has no row.
_ADD = """
insert into credentials (username, password_hash, roles) values ($1, $2, $3)
on conflict (username) do nothing returning user_id
"""

# Says: the credential is still what the password was compared with. The share lock is the guard: who disables it, or
# gives it another password, either ends this session as well or is waited for; then a row count of 0.
_ADD_SESSION = """
insert into sessions (id, user_id, secret_hash, expires_at)
select $1, user_id, $2, now() + make_interval(secs => $3)
  from credentials where user_id = $4 and password_hash = $5 and disabled_at is null for share
"""

# Says: the token was the session's newest, and now another one is. A row count of 0: it is over, or another has been
# given out since, so this one was used before.
_ROTATE_SESSION = """
update sessions s set secret_hash = $3, refreshed_at = now()
  from credentials c
 where s.id = $1 and s.secret_hash = $2 and s.revoked_at is null and s.expires_at > now()
   and c.user_id = s.user_id and c.disabled_at is null
returning c.user_id, c.username, c.password_hash, c.roles
"""

# The name goes with its user, and nobody can register one like what is put in its place.
_DISABLE = """
update credentials
   set disabled_at = now(), username = '~' || user_id, password_hash = '', version = version + 1, updated_at = now()
 where user_id = any($1::bigint[]) and disabled_at is null
"""

# One failure is forgotten every half minute. Beyond the free ones the wait doubles up to half a minute: two guesses a
# minute, for good, and who goes on at that pace adds nothing to what is counted for all addresses together. Who need
# not wait is given a time that is past in every transaction: one that began before this has an earlier now().
_FAILED = """
insert into throttles as t (key, failures, blocked_until) values ($1, 1, now() - interval '1 second')
on conflict (key) do update
   set (failures, blocked_until, seen_at) = (
     select counted, now() + make_interval(secs => case when counted > $2 then least(2.0 ^ least(counted - $2, 10), 30)
                                                   else -1 end), now()
       from (select greatest(0, t.failures - floor(extract(epoch from now() - t.seen_at) / 30)::int) + 1) c(counted))
"""

# The next key signs once every service has had the time to fetch it, or at once where there is none; the others are
# published until what they signed has expired.
_ROTATE_KEYS = """
with next as (
  insert into signing_keys (kid, private_key, signs_from)
  select $1, $2, now() + make_interval(secs => case when exists (select from signing_keys) then $3 else 0 end)
  returning signs_from)
update signing_keys set expires_at = next.signs_from + make_interval(secs => $4) from next where expires_at is null
"""


async def add(conn: Connection, username: str, password_hash: str, roles: Sequence[str]) -> int | None:
    """Insert a credential; returns its user's id, or None when the name is taken."""
    user_id: int | None = await conn.fetchval(_ADD, username, password_hash, roles)
    return user_id


async def find(conn: Connection, username: str) -> Credential | None:
    """Read the credential of a name that may log in."""
    row = await conn.fetchrow(
        "select user_id, username, password_hash, roles from credentials where username = $1 and disabled_at is null",
        username,
    )
    return Credential(*row) if row else None


async def set_password(conn: Connection, user_id: int, password_hash: str) -> None:
    """Replace a password's hash."""
    await conn.execute(
        "update credentials set password_hash = $2, version = version + 1, updated_at = now() where user_id = $1",
        user_id,
        password_hash,
    )


async def disable(conn: Connection, user_ids: Sequence[int]) -> set[int]:
    """End logins for good, with their sessions; returns those that exist, whether ended now or before."""
    await conn.execute(_DISABLE, user_ids)
    await end_sessions(conn, user_ids)
    rows = await conn.fetch("select user_id from credentials where user_id = any($1::bigint[])", user_ids)
    return {row[0] for row in rows}


async def add_session(conn: Connection, first: Refresh, user: Credential, seconds: int) -> bool:
    """Begin a session; says whether the user's login is still the one that was read."""
    values = (first.session_id, first.digest, seconds, user.user_id, user.password_hash)
    return await conn.execute(_ADD_SESSION, *values) == "INSERT 0 1"


async def rotate_session(conn: Connection, session_id: UUID, old: bytes, new: bytes) -> Credential | None:
    """Exchange a session's newest secret; returns whose session it is, or None when it was not the newest."""
    row = await conn.fetchrow(_ROTATE_SESSION, session_id, old, new)
    return Credential(*row) if row else None


async def end_session(conn: Connection, session_id: UUID, digest: bytes | None = None) -> bool:
    """End a session, with a `digest` only if that is its newest secret's; says whether it was not over already."""
    ended = await conn.execute(
        "update sessions set revoked_at = now() "
        "where id = $1 and revoked_at is null and ($2::bytea is null or secret_hash = $2)",
        *(session_id, digest),
    )
    return ended == "UPDATE 1"


async def end_sessions(conn: Connection, user_ids: Sequence[int]) -> None:
    """End all sessions of users."""
    await conn.execute(
        "update sessions set revoked_at = now() where user_id = any($1::bigint[]) and revoked_at is null", user_ids
    )


async def ended_sessions(conn: Connection, seconds: int) -> frozenset[str]:
    """Read which sessions were ended in the last seconds: their access tokens may not have expired yet."""
    rows = await conn.fetch("select id from sessions where revoked_at > now() - make_interval(secs => $1)", seconds)
    return frozenset(row[0].hex for row in rows)


async def blocked_seconds(conn: Connection, keys: Sequence[bytes]) -> float:
    """Tell how long the slowest of these has to wait yet."""
    seconds: float | None = await conn.fetchval(
        "select extract(epoch from max(blocked_until) - now())::float8 from throttles where key = any($1::bytea[])",
        keys,
    )
    return max(0.0, seconds or 0.0)


async def failed(conn: Connection, key: bytes, free: int) -> None:
    """Count a failure; from the one after the free ones on, the next attempt has to wait."""
    await conn.execute(_FAILED, key, free)


async def forgive(conn: Connection, keys: Sequence[bytes]) -> None:
    """Forget the failures."""
    await conn.execute("delete from throttles where key = any($1::bytea[])", keys)


async def keys(conn: Connection) -> list[tuple[Key, bool]]:
    """Read the keys that are published, the newest first, and whether each signs yet."""
    rows = await conn.fetch(
        "select kid, private_key, signs_from <= now() from signing_keys "
        "where expires_at is null or expires_at > now() order by created_at desc, kid"
    )
    return [(Key(row[0], Ed25519PrivateKey.from_private_bytes(row[1])), row[2]) for row in rows]


async def rotate_keys(conn: Connection, kid: str, private: bytes, lead_seconds: int, token_seconds: int) -> None:
    """Add a key that signs from `lead_seconds` on, in place of those before."""
    await conn.execute(_ROTATE_KEYS, kid, private, lead_seconds, token_seconds)


async def add_first_key(conn: Connection, kid: str, private: bytes) -> None:
    """Add a key that signs at once, if there is none; the lock makes it one, whoever else starts now."""
    await conn.execute("lock table signing_keys in share row exclusive mode")
    await conn.execute(
        "insert into signing_keys (kid, private_key, signs_from) select $1, $2, now() "
        "where not exists (select from signing_keys where expires_at is null or expires_at > now())",
        *(kid, private),
    )


async def sweep(conn: Connection) -> None:
    """Delete what has been over for a day; failures after an hour."""
    await conn.execute("delete from sessions where expires_at < now() - interval '1 day'")
    await conn.execute("delete from signing_keys where expires_at < now() - interval '1 day'")
    await conn.execute("delete from throttles where seen_at < now() - interval '1 hour'")
