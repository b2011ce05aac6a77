"""The use cases of auth: register, log in, refresh, log out, passwords, sessions, administrators, keys.

What must stay true: neither the text nor the time of a failed login reveals whether the username exists. Wrong
passwords of others never slow down a device that has logged in before. A refresh token is valid once. If it is used
again, two parties have it, and its session ends. Only the device that used it may repeat the request, for 10 s, because
the answer may be lost; it gets the same successor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import structlog

from auth import audit, blocklist, domain, store
from auth.domain import ADMIN_NAME, GRACE_SECONDS, Bucket, Credential, Key, Refresh, Sender, Session
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


class CommonPassword(errors.Invalid):
    """The password would be guessed early."""

    text = "the password is the username or one of the commonest: choose another one"


class WrongPassword(errors.Forbidden):
    """The old password is wrong."""

    text = "the old password is wrong"


class SetByOperator(errors.Conflict):
    """The administrator's password is a setting."""

    text = "the password of `admin` is the setting ADMIN_PASSWORD of auth: change it there"


class UserNotFound(errors.NotFound):
    """No login has this id, or it is disabled."""


class SessionNotFound(errors.NotFound):
    """The caller has no such session, or it is over."""


class LastAdministrator(errors.Conflict):
    """Nobody else could give the role back."""

    text = "this is the last administrator: make another user one first"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a login. A refresh leaves `device` empty."""

    access: str
    refresh: str
    seconds: int
    device: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long tokens are valid, and how many wrong passwords cause no wait. `visitor_seconds` of 0: no visitors."""

    access_seconds: int
    refresh_seconds: int
    free: int
    per_account: int
    per_address: int
    visitor_seconds: int = 0


SESSIONS_SHOWN = 100

_LEAK_SECONDS = 30.0
_SHARED_LEAK_SECONDS = 6.0
"""What many share leaks faster: the pace of a few guessers must not fill it for good."""


class Logins:
    """The use cases that hash a password. They open their own short transactions, because hashing takes 30 ms."""

    def __init__(
        self,
        pool: Pool,
        keyring: Keyring,
        passwords: Passwords,
        limits: Limits,
        committed: Callable[[], None],
        trail: audit.Trail,
    ) -> None:
        self._pool, self._keyring, self._passwords, self._limits = pool, keyring, passwords, limits
        self._committed, self._trail = committed, trail

    async def register(self, username: str, password: str, sender: Sender) -> int:
        """Create a login, with its event. Returns the user's id. Raises `NameTaken`, `CommonPassword` or `TooMany`."""
        with audit.decision(self._trail, "register", sender) as decision:
            if username == ADMIN_NAME:  # otherwise a user could take the name before the administrator exists
                raise NameTaken
            _refuse_common(username, password)
            async with self._passwords.turn():
                password_hash = await self._passwords.hash(password)
            async with postgres.transaction(self._pool) as conn:
                user_id = await register(conn, username, password_hash)
            decision.who = decision.whom = user_id
        self._committed()
        return user_id

    async def log_in(self, username: str, password: str, sender: Sender) -> Tokens:
        """Start a session. Raises `Unauthenticated`, or `TooMany` after wrong passwords.

        They count for the account and the address, but for a device that has logged in to the account before, only its
        own count.
        """
        key = self._keyring.signing
        with audit.decision(self._trail, "login", sender) as decision:
            async with self._passwords.turn():
                async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                    known = await store.find(conn, username)
                    decision.whom = known.user_id if known else ""
                    device = domain.known_device(known, sender.device)
                    forgiven, kept = self._buckets(username, sender, device)
                    await _count(conn, forgiven, kept)
                right = await self._passwords.is_right(known, password)
                async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                    if known is None or not right:
                        for bucket in kept:
                            await store.failed(conn, bucket)
                        raise errors.Unauthenticated("wrong username or password")
                    await store.forgive(conn, forgiven)
                    refresh, seconds = Refresh.new(), self._limits.refresh_seconds
                    if not await store.add_session(conn, refresh, known, seconds, sender.user_agent):
                        raise errors.Unauthenticated("wrong username or password")
            decision.who = known.user_id
        return self._tokens(key, known, refresh, domain.device_token(known, device or ""))

    def visit(self) -> tuple[str, int]:
        """An access token of a new visitor, and how many seconds it is valid. Nothing is stored. Raises `Forbidden`."""
        seconds = self._limits.visitor_seconds
        if not seconds:
            raise errors.Forbidden("there are no visitors here: register and log in")
        visitor, now = domain.new_visitor(), datetime.now(UTC)
        return domain.access_token(self._keyring.signing, visitor, uuid4(), now, seconds), seconds

    async def refresh(self, token: str, sender: Sender) -> Tokens:
        """Exchange a refresh token for new tokens. A used token ends its session. Raises `Unauthenticated`."""
        old = Refresh.parse(token)
        if old is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        key, salt = self._keyring.signing, domain.new_salt()
        new = old.successor(salt)
        async with postgres.transaction(self._pool) as conn:
            known = await store.rotate_session(conn, old, new, salt, sender)
            if known is None and (last := await store.last_rotation(conn, old.session_id, sender)):
                salt, digest, user = last
                new = old.successor(salt)
                known = user if new.digest == digest else None
            ended = await store.end_session(conn, old.session_id) if known is None else None
        if ended is not None:
            log.warning("an old refresh token was used; its session is over", session=old.session_id.hex)
            audit.note(self._trail, "refresh", sender, "refused: an old refresh token; the session is over", whom=ended)
        if known is None:
            raise errors.Unauthenticated("the refresh token is not valid")
        return self._tokens(key, known, new)

    async def log_out(self, token: str, sender: Sender) -> None:
        """End the session of a refresh token, if the token is valid."""
        known = Refresh.parse(token)
        if known:
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                ended = await store.end_session(conn, known.session_id, known.digest)
            if ended is not None:
                audit.note(self._trail, "logout", sender, "done", ended, ended)

    async def change_password(self, user_id: int, session_id: UUID | None, old: str, new: str, sender: Sender) -> str:
        """Replace a password, and end the user's other sessions. Returns a new device token.

        Wrong old passwords count for the session. Raises `WrongPassword`, `TooMany`, `CommonPassword`, `SetByOperator`
        or `UserNotFound`.
        """
        with audit.decision(self._trail, "change password", sender, user_id, user_id):
            tries = Bucket(domain.slowed("session", f"{user_id} {session_id}"), self._limits.free, _LEAK_SECONDS)
            async with self._passwords.turn():
                async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                    known = await store.get(conn, user_id)
                    if known is None:
                        raise UserNotFound
                    if known.username == ADMIN_NAME:
                        raise SetByOperator
                    _refuse_common(known.username, new)
                    await _count(conn, [tries])
                if not await self._passwords.is_right(known, old):
                    raise WrongPassword
                password_hash = await self._passwords.hash(new)
            async with postgres.transaction(self._pool) as conn:
                if not await store.set_password(conn, known, password_hash):
                    raise WrongPassword
                await store.end_sessions(conn, [user_id], but=session_id)
                await store.forgive(conn, [tries])
        return domain.device_token(replace(known, password_hash=password_hash))

    async def ensure_admin(self, password: str) -> None:
        """Create the administrator, or set their password. A new password ends their sessions."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            known = await store.find(conn, ADMIN_NAME)
        if await self._passwords.is_right(known, password):
            return
        with audit.decision(self._trail, "set password", Sender(), "ADMIN_PASSWORD", known.user_id if known else ""):
            password_hash = await self._passwords.hash(password)
            async with postgres.transaction(self._pool) as conn:
                if known is None:
                    await register(conn, ADMIN_NAME, password_hash, [tokens.ADMIN])
                elif await store.set_password(conn, known, password_hash):
                    await store.end_sessions(conn, [known.user_id])
        self._committed()

    def _buckets(self, username: str, sender: Sender, device: str | None) -> tuple[list[Bucket], list[Bucket]]:
        """Where wrong passwords count: those that the right password empties, and those that it does not."""
        limits, address = self._limits, domain.network(sender.address)
        if device:
            return [Bucket(domain.slowed("device", device), limits.free, _LEAK_SECONDS)], []
        here = Bucket(domain.slowed("here", f"{address} {username}"), limits.free, _LEAK_SECONDS)
        account = Bucket(domain.slowed("account", username), limits.per_account, _SHARED_LEAK_SECONDS)
        origin = Bucket(domain.slowed("address", address), limits.per_address, _SHARED_LEAK_SECONDS)
        return [here, account], [origin]

    def _tokens(self, key: Key, user: Credential, refresh: Refresh, device: str = "") -> Tokens:
        seconds = self._limits.access_seconds
        access = domain.access_token(key, user, refresh.session_id, datetime.now(UTC), seconds)
        return Tokens(access, refresh.text, seconds, device)


async def _count(conn: Connection, counted: Sequence[Bucket], others: Sequence[Bucket] = ()) -> None:
    """Count an attempt before its password is compared, so that a disconnect does not prevent it.

    The right password empties what was counted. Raises `TooMany` if one of the buckets makes the attempt wait.
    """
    if (seconds := await store.blocked_seconds(conn, [*counted, *others])) > 0:
        raise errors.TooMany("too many wrong passwords: try again later", int(seconds) + 1)
    for bucket in counted:
        await store.failed(conn, bucket)


def _refuse_common(username: str, password: str) -> None:
    if blocklist.is_common(password) or password.casefold() == username:
        raise CommonPassword


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


async def end_session(conn: Connection, user_id: int, session_id: UUID | None) -> None:
    """End a session of this user. Raises `SessionNotFound`."""
    if session_id is None or not await store.end_own_session(conn, user_id, session_id):
        raise SessionNotFound


async def sessions(conn: Connection, user_id: int) -> list[Session]:
    """The sessions of a user that are not over: at most `SESSIONS_SHOWN`, those that were used last first."""
    return await store.sessions(conn, user_id, SESSIONS_SHOWN)


async def make_administrator(conn: Connection, by: int, user_id: int) -> None:
    """Make a user an administrator. The next token of this user has the role. Raises `Forbidden` or `UserNotFound`."""
    await _administrators(conn, by)
    if await store.get(conn, user_id) is None:
        raise UserNotFound
    await store.give_role(conn, user_id, tokens.ADMIN)


async def dismiss_administrator(conn: Connection, by: int, user_id: int) -> None:
    """Take the administrator's role from a user, and end their sessions.

    Raises `Forbidden`, `UserNotFound` or `LastAdministrator`.
    """
    administrators = await _administrators(conn, by)
    if user_id not in administrators:
        if await store.get(conn, user_id) is None:
            raise UserNotFound
        return
    if administrators == {user_id}:
        raise LastAdministrator
    await store.take_role(conn, user_id, tokens.ADMIN)
    await store.end_sessions(conn, [user_id])


async def _administrators(conn: Connection, by: int) -> set[int]:
    """Lock and read who is an administrator. Raises `Forbidden` if `by` is none any more, whatever their token says."""
    administrators = await store.lock_with_role(conn, tokens.ADMIN)
    if by not in administrators:
        raise errors.Forbidden("this is for administrators")
    return administrators


async def rotate_keys(conn: Connection, lead_seconds: int, access_seconds: int) -> str:
    """Publish a new key, which signs after `lead_seconds`. Returns its name."""
    kid, private = domain.new_key()
    await store.rotate_keys(conn, kid, private, lead_seconds, access_seconds + GRACE_SECONDS)
    return kid
