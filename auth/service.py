"""The use cases of auth: register, log in, refresh, log out, disable, and rotate the keys.

What must stay true: neither the text nor the time of a failed login reveals whether the username exists. A refresh
token is valid once. If it is used again, two parties have it, and its session ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

import structlog

from auth import domain, store
from auth.domain import ADMIN_NAME, GRACE_SECONDS, Credential, Key, Refresh
from auth.keyring import Keyring
from auth.passwords import Passwords
from contracts.users import UserRegistered
from shared import errors, postgres
from shared.delivery import events
from shared.postgres import Connection, Pool
from shared.web import tokens

log = structlog.get_logger()


class NameTaken(errors.Conflict):
    """The username is taken."""

    text = "the username is taken"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a login."""

    access: str
    refresh: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How long tokens are valid, and how many wrong passwords cause no wait. `visitor_seconds` of 0: no visitors."""

    access_seconds: int
    refresh_seconds: int
    free: int
    per_account: int
    per_address: int
    visitor_seconds: int = 0


class Logins:
    """The use cases that hash a password. They open their own short transactions, because hashing takes 30 ms."""

    def __init__(
        self, pool: Pool, keyring: Keyring, passwords: Passwords, limits: Limits, committed: Callable[[], None]
    ) -> None:
        self._pool, self._keyring, self._passwords, self._limits = pool, keyring, passwords, limits
        self._committed = committed

    async def register(self, username: str, password: str) -> int:
        """Create a login, with its event. Returns the user's id. Raises `NameTaken` or `TooMany`."""
        if username == ADMIN_NAME:  # otherwise a user could take the name before the administrator exists
            raise NameTaken
        async with self._passwords.turn():
            password_hash = await self._passwords.hash(password)
        async with postgres.transaction(self._pool) as conn:
            user_id = await register(conn, username, password_hash)
        self._committed()
        return user_id

    async def log_in(self, username: str, password: str, address: str) -> Tokens:
        """Start a session. Raises `Unauthenticated`, or `TooMany` after wrong passwords for this name or address."""
        here, account = domain.slowed("here", f"{address} {username}"), domain.slowed("account", username)
        origin, key = domain.slowed("address", address), self._keyring.signing
        async with self._passwords.turn():
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                if (seconds := await store.blocked_seconds(conn, [here, account, origin])) > 0:
                    raise errors.TooMany("too many wrong passwords: try again later", int(seconds) + 1)
                known = await store.find(conn, username)
                await store.failed(
                    conn, here, self._limits.free
                )  # before the check, so that a disconnect does not prevent it; deleted below if the password is right
                await store.failed(conn, account, self._limits.per_account)
            right = await self._passwords.is_right(known, password)
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                if known is None or not right:
                    await store.failed(conn, origin, self._limits.per_address)
                    raise errors.Unauthenticated("wrong username or password")
                await store.forgive(conn, [here, account])
                refresh = Refresh.new()
                if not await store.add_session(conn, refresh, known, self._limits.refresh_seconds):
                    raise errors.Unauthenticated("wrong username or password")
        return self._tokens(key, known, refresh)

    def visit(self) -> tuple[str, int]:
        """An access token of a new visitor, and how many seconds it is valid. Nothing is stored. Raises `Forbidden`."""
        seconds = self._limits.visitor_seconds
        if not seconds:
            raise errors.Forbidden("there are no visitors here: register and log in")
        visitor, now = domain.new_visitor(), datetime.now(UTC)
        return domain.access_token(self._keyring.signing, visitor, uuid4(), now, seconds), seconds

    async def refresh(self, token: str) -> Tokens:
        """Exchange a refresh token for new tokens. A used token ends its session. Raises `Unauthenticated`."""
        old = Refresh.parse(token)
        if old is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        new, key = Refresh.new(old.session_id), self._keyring.signing
        async with postgres.transaction(self._pool) as conn:
            known = await store.rotate_session(conn, old.session_id, old.digest, new.digest)
            reused = known is None and await store.end_session(conn, old.session_id)
        if reused:
            log.warning(
                "an old refresh token was used; its session is over",
                session=old.session_id.hex,
            )
        if known is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        return self._tokens(key, known, new)

    async def log_out(self, token: str) -> None:
        """End the session of a refresh token, if the token is valid."""
        known = Refresh.parse(token)
        if known:
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                await store.end_session(conn, known.session_id, known.digest)

    async def ensure_admin(self, password: str) -> None:
        """Create the administrator, or set their password. A new password ends their sessions."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            known = await store.find(conn, ADMIN_NAME)
        if await self._passwords.is_right(known, password):
            return
        password_hash = await self._passwords.hash(password)
        async with postgres.transaction(self._pool) as conn:
            if known is None:
                await register(conn, ADMIN_NAME, password_hash, [tokens.ADMIN])
            else:
                await store.set_password(conn, known.user_id, password_hash)
                await store.end_sessions(conn, [known.user_id])
        self._committed()

    def _tokens(self, key: Key, user: Credential, refresh: Refresh) -> Tokens:
        seconds = self._limits.access_seconds
        access = domain.access_token(key, user, refresh.session_id, datetime.now(UTC), seconds)
        return Tokens(access, refresh.text, seconds)


async def register(conn: Connection, username: str, password_hash: str, roles: Sequence[str] = ()) -> int:
    """Store a credential with its event, in the caller's transaction. Returns the user's id. Raises `NameTaken`."""
    user = Credential(await store.next_id(conn), username, password_hash, list(roles))
    registered = UserRegistered(version=1, user_id=str(user.user_id), username=username)
    if not await store.add(conn, user, [events.encode(registered)]):
        raise NameTaken
    return user.user_id


async def disable(conn: Connection, user_ids: Sequence[int]) -> set[int]:
    """End the logins and sessions of deleted users. Returns the ids that exist."""
    return await store.disable(conn, user_ids)


async def rotate_keys(conn: Connection, lead_seconds: int, access_seconds: int) -> str:
    """Publish a new key, which signs after `lead_seconds`. Returns its name."""
    kid, private = domain.new_key()
    await store.rotate_keys(conn, kid, private, lead_seconds, access_seconds + GRACE_SECONDS)
    return kid
