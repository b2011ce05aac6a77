"""Every SQL statement of the auth service. Times are the database's, so that all processes agree on them."""

from collections.abc import Sequence
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from auth.domain import Credential, Key, Refresh
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
# another transaction disables the credential or changes its password, one of the two waits for the other: either no
# session is inserted, or the other transaction ends it too.
_ADD_SESSION = """
insert into sessions (id, user_id, secret_hash, expires_at)
select $1, user_id, $2, now() + make_interval(secs => $3)
  from credentials where user_id = $4 and password_hash = $5 and disabled_at is null for share
"""

# Replaces the secret of a session if the old one is the newest. No row is returned if the session is over, or if the
# secret was replaced before.
_ROTATE_SESSION = """
update sessions s set secret_hash = $3, refreshed_at = now()
  from credentials c
 where s.id = $1 and s.secret_hash = $2 and s.revoked_at is null and s.expires_at > now()
   and c.user_id = s.user_id and c.disabled_at is null
returning c.user_id, c.username, c.password_hash, c.roles
"""

# Replaces the name by a name that nobody can register.
_DISABLE = """
update credentials
   set disabled_at = now(), username = '~' || user_id, password_hash = '', version = version + 1, updated_at = now()
 where user_id = any($1::bigint[]) and disabled_at is null
"""

# One failure is forgotten every half minute. After the free failures, the wait doubles up to half a minute: two guesses
# a minute. If the next attempt need not wait, the stored time is one second in the past, because now() of a transaction
# that began earlier is earlier.
_FAILED = """
insert into throttles as t (key, failures, blocked_until) values ($1, 1, now() - interval '1 second')
on conflict (key) do update
   set (failures, blocked_until, seen_at) = (
     select counted, now() + make_interval(secs => case when counted > $2 then least(2.0 ^ least(counted - $2, 10), 30)
                                                   else -1 end), now()
       from (select greatest(0, t.failures - floor(extract(epoch from now() - t.seen_at) / 30)::int) + 1) c(counted))
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


async def find(conn: Connection, username: str) -> Credential | None:
    """Read the credential of a username, or None if there is none or it is disabled."""
    row = await conn.fetchrow(
        "select user_id, username, password_hash, roles from credentials where username = $1 and disabled_at is null",
        username,
    )
    return Credential(**row) if row else None


async def set_password(conn: Connection, user_id: int, password_hash: str) -> None:
    """Replace a password's hash."""
    await conn.execute(
        "update credentials set password_hash = $2, version = version + 1, updated_at = now() where user_id = $1",
        user_id,
        password_hash,
    )


async def disable(conn: Connection, user_ids: Sequence[int]) -> set[int]:
    """End logins permanently, with their sessions. Returns the ids that exist, whether ended now or before."""
    await conn.execute(_DISABLE, user_ids)
    await end_sessions(conn, user_ids)
    rows = await conn.fetch("select user_id from credentials where user_id = any($1::bigint[])", user_ids)
    return {row["user_id"] for row in rows}


async def add_session(conn: Connection, first: Refresh, user: Credential, seconds: int) -> bool:
    """Insert a session. False if the user's credential has changed since it was read."""
    values = (first.session_id, first.digest, seconds, user.user_id, user.password_hash)
    return await conn.execute(_ADD_SESSION, *values) == "INSERT 0 1"


async def rotate_session(conn: Connection, session_id: UUID, old: bytes, new: bytes) -> Credential | None:
    """Replace a session's newest secret. Returns the session's user, or None if `old` is not the newest."""
    row = await conn.fetchrow(_ROTATE_SESSION, session_id, old, new)
    return Credential(**row) if row else None


async def end_session(conn: Connection, session_id: UUID, digest: bytes | None = None) -> bool:
    """End a session; with `digest`, only if its newest secret has this hash. Returns False if nothing was ended."""
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
    """Read the sessions that ended in the last `seconds`: their access tokens may still be valid."""
    rows = await conn.fetch("select id from sessions where revoked_at > now() - make_interval(secs => $1)", seconds)
    return frozenset(row["id"].hex for row in rows)


async def blocked_seconds(conn: Connection, keys: Sequence[bytes]) -> float:
    """The longest time that one of these keys must still wait, in seconds."""
    seconds: float | None = await conn.fetchval(
        "select extract(epoch from max(blocked_until) - now())::float8 from throttles where key = any($1::bytea[])",
        keys,
    )
    return max(0.0, seconds or 0.0)


async def failed(conn: Connection, key: bytes, free: int) -> None:
    """Count a wrong password. After `free` of them, the next attempt must wait."""
    await conn.execute(_FAILED, key, free)


async def forgive(conn: Connection, keys: Sequence[bytes]) -> None:
    """Delete the counts of these keys."""
    await conn.execute("delete from throttles where key = any($1::bytea[])", keys)


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
