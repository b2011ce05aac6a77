"""The use cases of auth: register, log in, refresh, log out, disable, and rotate the keys.

What must stay true: who logs in cannot tell, by text or by time, whether a name exists; a refresh token is good once,
and one that comes back ends its session, because then two have it.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from auth import domain, store
from auth.domain import ADMIN_NAME, Credential, Key, Refresh
from contracts.users import UserRegistered
from shared import errors
from shared.delivery import outbox
from shared.postgres import connections as db
from shared.postgres.connections import Connection, Pool
from shared.web import tokens

log = structlog.get_logger()

T = TypeVar("T")

_MAX_WAITING = 32
_TURN_SECONDS = 1.5
_NICE = 10
_GRACE_SECONDS = 60


class NameTaken(errors.Conflict):
    """Somebody has this name."""

    def __init__(self) -> None:
        super().__init__("the username is taken")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a login is good for."""

    access: str
    refresh: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How long tokens live, and how many failures are free."""

    access_seconds: int
    refresh_seconds: int
    free: int
    per_account: int
    per_address: int


class Passwords:
    """Hashes passwords with Argon2id in threads of low priority, a few at once; whoever finds a long queue is refused.

    19 MiB and two passes, as OWASP's Password Storage Cheat Sheet recommends: 30 ms. Low priority, because a storm of
    logins is to slow logins and not orders.
    """

    def __init__(self, at_once: int) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._threads = ThreadPoolExecutor(at_once, "passwords", initializer=_step_back)
        self._turns = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._nobodys = self._hasher.hash(os.urandom(16).hex())

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one of the few turns; at most so many wait. Raises `TooMany`."""
        if self._waiting >= _MAX_WAITING:
            raise errors.TooMany("too many log in at once", 1)
        self._waiting += 1
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise errors.TooMany("too many log in at once", 1) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()

    async def hash(self, password: str) -> str:
        """Hash a password, with a salt of its own."""
        return await self._in_thread(self._hasher.hash, password)

    async def is_right(self, known: Credential | None, password: str) -> bool:
        """Compare a password with a credential's; without one, with nobody's, which takes as long."""

        def compare() -> bool:
            try:
                return self._hasher.verify(known.password_hash if known else self._nobodys, password)
            except VerifyMismatchError:
                return False

        return await self._in_thread(compare) and known is not None

    async def _in_thread(self, work: Callable[..., T], *arguments: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _step_back() -> None:
    if sys.platform != "linux":  # where it would be the process' and not the thread's
        return
    thread = threading.get_native_id()
    with suppress(PermissionError):  # some sandboxes forbid even this; then storms of logins cost orders more
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICE))


class Keyring:
    """The keys as they stand, and the sessions that were ended while their access tokens are still good."""

    def __init__(self, pool: Pool, access_seconds: int) -> None:
        self._pool, self._access_seconds = pool, access_seconds
        self._published: list[Key] = []
        self._signing: Key | None = None
        self._ended: frozenset[str] | None = None

    async def reload(self) -> None:
        """Read keys and ended sessions; makes the first key when there is none."""
        async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
            found = await store.keys(conn)
            ended = await store.ended_sessions(conn, self._access_seconds + _GRACE_SECONDS)
        if not found:
            async with db.transaction(self._pool) as conn:
                await store.add_first_key(conn, *domain.new_key())
                found = await store.keys(conn)
        self._published = [key for key, _ in found]
        self._signing = next((key for key, signs in found if signs), None)
        self._ended = ended

    @property
    def signing(self) -> Key:
        """The key that signs now. Raises `Unavailable` until the keys were read."""
        if self._signing is None:
            raise errors.Unavailable("the keys cannot be read right now")
        return self._signing

    def published(self) -> dict[str, Any]:
        """Give all public keys, as a JWK set. Raises `Unavailable` until they were read."""
        if not self._published:
            raise errors.Unavailable("the keys cannot be read right now")
        return {"keys": [key.published() for key in self._published]}

    def is_over(self, session_id: str) -> bool:
        """Say whether a session was ended. Raises `Unavailable` until it is known."""
        if self._ended is None:
            raise errors.Unavailable("sessions cannot be read right now")
        return session_id in self._ended


class Logins:
    """The use cases that hash between their transactions, which are therefore short and their own."""

    def __init__(
        self, pool: Pool, keyring: Keyring, passwords: Passwords, limits: Limits, committed: Callable[[], None]
    ) -> None:
        self._pool, self._keyring, self._passwords, self._limits = pool, keyring, passwords, limits
        self._committed = committed

    async def register(self, username: str, password: str) -> int:
        """Make a login, and say so; returns the user's id. Raises `NameTaken` or `TooMany`."""
        if username == ADMIN_NAME:  # who took it before there is an administrator would keep it, without the role
            raise NameTaken
        async with self._passwords.turn():
            password_hash = await self._passwords.hash(password)
        async with db.transaction(self._pool) as conn:
            user_id = await register(conn, username, password_hash)
        self._committed()
        return user_id

    async def log_in(self, username: str, password: str, address: str) -> Tokens:
        """Begin a session. Raises `Unauthenticated`, or `TooMany` after failures by this name or from this address."""
        here, account = domain.slowed("here", f"{address} {username}"), domain.slowed("account", username)
        origin, key = domain.slowed("address", address), self._keyring.signing
        async with self._passwords.turn():
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                if (seconds := await store.blocked_seconds(conn, [here, account, origin])) > 0:
                    raise errors.TooMany("too many wrong passwords: try again later", int(seconds) + 1)
                known = await store.find(conn, username)
                await store.failed(conn, here, self._limits.free)  # until it is right, also if nobody waits for that
                await store.failed(conn, account, self._limits.per_account)
            right = await self._passwords.is_right(known, password)
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                if known is None or not right:
                    await store.failed(conn, origin, self._limits.per_address)
                    raise errors.Unauthenticated("wrong username or password")
                await store.forgive(conn, [here, account])
                refresh = Refresh.new()
                if not await store.add_session(conn, refresh, known, self._limits.refresh_seconds):
                    raise errors.Unauthenticated("wrong username or password")
        return self._tokens(key, known, refresh)

    async def refresh(self, token: str) -> Tokens:
        """Exchange a refresh token for new ones; one used before ends its session. Raises `Unauthenticated`."""
        old = Refresh.parse(token)
        if old is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        new, key = Refresh.new(old.session_id), self._keyring.signing
        async with db.transaction(self._pool) as conn:
            known = await store.rotate_session(conn, old.session_id, old.digest, new.digest)
            reused = known is None and await store.end_session(conn, old.session_id)
        if reused:
            log.warning(
                "a refresh token was not the newest of its session, which is over: it was used before, or made up",
                session=old.session_id.hex,
            )
        if known is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        return self._tokens(key, known, new)

    async def log_out(self, token: str) -> None:
        """End the session of a refresh token, if there is one."""
        known = Refresh.parse(token)
        if known:
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                await store.end_session(conn, known.session_id, known.digest)

    async def ensure_admin(self, password: str) -> None:
        """Make the administrator, or give them this password; then whoever had the old one is logged out."""
        async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
            known = await store.find(conn, ADMIN_NAME)
        if await self._passwords.is_right(known, password):
            return
        password_hash = await self._passwords.hash(password)
        async with db.transaction(self._pool) as conn:
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
    """Store a credential and the fact that somebody has registered, in the caller's transaction. Raises `NameTaken`."""
    user_id = await store.add(conn, username, password_hash, roles)
    if user_id is None:
        raise NameTaken
    await outbox.append(conn, [UserRegistered(version=1, user_id=str(user_id), username=username)])
    return user_id


async def disable(conn: Connection, user_ids: Sequence[int]) -> set[int]:
    """End the logins of users who were deleted, with their sessions; returns those that exist."""
    return await store.disable(conn, user_ids)


async def rotate_keys(conn: Connection, lead_seconds: int, access_seconds: int) -> str:
    """Publish a new key, which signs from `lead_seconds` on; returns its name."""
    kid, private = domain.new_key()
    await store.rotate_keys(conn, kid, private, lead_seconds, access_seconds + _GRACE_SECONDS)
    return kid
