"""The console's own sessions, of 12 hours.

What must stay true: only an administrator gets a session. The cookie's value is stored only as a hash, and the tokens
are encrypted with it, so a copy of the file lets nobody act as an administrator. A session stays usable while auth is
down. It ends after 12 hours, at a logout, or when auth says that its tokens are over.
"""

import asyncio
import base64
import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from cryptography.fernet import Fernet, InvalidToken

from console.guesses import Guesses
from console.identity import RENEW_EVERY_SECONDS, Identity, Tokens
from console.store import Store
from shared.errors import Forbidden, TooMany, Unauthenticated, Unavailable
from shared.process.backoff import wait
from shared.process.loop import Beat

log = structlog.get_logger()

SECONDS = 12 * 3600.0
_MOST = 200
_WAIT_SECONDS = 0.5

# A refresh token is valid once. While it is exchanged, the old access token is used; it is renewed at half of its life.
_LEFT_SECONDS = 30.0


@dataclass(slots=True)
class Session:
    """One login. `id` is the hash of the cookie. Pages show `username`; forms carry `csrf`."""

    id: bytes
    user_id: str
    username: str
    ends_at: float
    csrf: str
    cipher: Fernet
    tokens: Tokens
    renew_at: float
    renewal: "asyncio.Task[None] | None" = None


class Sessions:
    def __init__(self, store: Store, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self._store, self._identity, self._clock = store, identity, clock
        self._guesses = Guesses(clock)
        self._stored: dict[bytes, sqlite3.Row] = {}
        self._open: dict[bytes, Session] = {}

    async def load(self) -> None:
        """Read the sessions of an earlier process."""
        now = self._clock()

        def read(conn: sqlite3.Connection) -> list[sqlite3.Row]:
            conn.execute("delete from sessions where ends_at <= ?", (now,))
            return conn.execute("select * from sessions order by ends_at").fetchall()

        self._stored = {row["id"]: row for row in await self._store.run(read)}

    async def log_in(self, username: str, password: str, address: str) -> str:
        """Start a session. Returns the cookie's value.

        Raises `Unauthenticated`, `Forbidden` for a customer, `TooMany`, or `Unavailable` while auth is down.
        """
        self._guesses.begin(address)
        try:
            tokens = await self._identity.log_in(username, password, address)
        except (Unavailable, TooMany):
            self._guesses.succeeded(address)  # nobody compared the password
            raise
        if not tokens.caller.is_admin:
            await self._identity.log_out(tokens.refresh)
            raise Forbidden("only an administrator may use the console")
        self._guesses.succeeded(address)
        cookie = secrets.token_urlsafe(32)
        session = _session(cookie, username[:128], self._clock() + SECONDS, tokens)
        session.renew_at = tokens.renew_at(self._clock())
        await self._keep(session)
        self._open[session.id] = session
        await self._limit()
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session of a cookie, if it is not over."""
        id_ = _hash(cookie)
        session = self._open.get(id_) or self._reopen(id_, cookie)
        if session is None or session.ends_at <= self._clock():
            return None
        return session

    async def log_out(self, session: Session) -> None:
        """End a session, also in auth if it answers."""
        await self._end(session)
        await self._identity.log_out(session.tokens.refresh)

    async def access(self, session: Session) -> str:
        """An access token. It is renewed if it is needed and auth answers; otherwise it may be expired.

        Raises `Unauthenticated` if auth has ended the session.
        """
        if session.tokens.caller.expires_at - self._clock() < _LEFT_SECONDS:
            if (renewal := self._renew(session)) is not None:
                await asyncio.wait([renewal], timeout=_WAIT_SECONDS)
            if session.id not in self._open:
                raise Unauthenticated("auth has ended the session: log in again")
        return session.tokens.access

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Renew tokens at half of their life, and delete sessions that are over, until `stop` is set."""
        while not await wait(stop, RENEW_EVERY_SECONDS):
            beat()
            await self.run_once()
        renewals = [one.renewal for one in self._open.values() if one.renewal]
        if renewals:  # a refresh whose answer is lost ends its session
            await asyncio.wait(renewals, timeout=3.0)

    async def run_once(self) -> None:
        now = self._clock()
        for session in list(self._open.values()):
            if session.ends_at <= now:
                await self._end(session)
            elif session.renew_at <= now:
                self._renew(session)

    def _renew(self, session: Session) -> "asyncio.Task[None] | None":
        """The renewal that is under way, or a new one. None if the last one failed a moment ago."""
        if session.renewal is not None and not session.renewal.done():
            return session.renewal
        if self._clock() < session.renew_at:
            return None
        session.renew_at = self._clock() + RENEW_EVERY_SECONDS
        session.renewal = asyncio.create_task(self._exchange(session), name="renewal of a session")
        return session.renewal

    async def _exchange(self, session: Session) -> None:
        try:
            tokens = await self._identity.refresh(session.tokens.refresh)
        except Unavailable:
            return
        except Unauthenticated as error:
            log.warning("auth has ended a session of the console", user=session.user_id, error=error.detail)
            await self._end(session)
            return
        session.tokens, session.renew_at = tokens, tokens.renew_at(self._clock())
        if not tokens.caller.is_admin:
            log.warning("a user of the console is no administrator any more", user=session.user_id)
            await self._end(session)
        elif session.id in self._open:
            await self._keep(session)

    def _reopen(self, id_: bytes, cookie: str) -> Session | None:
        row = self._stored.get(id_)
        if row is None:
            return None
        try:
            found: dict[str, Any] = orjson.loads(_cipher(cookie).decrypt(row["tokens"]))
        except (InvalidToken, ValueError):
            return None
        tokens = Tokens.stored(found)
        session = _session(cookie, row["username"], row["ends_at"], tokens)
        session.renew_at = self._clock()
        self._open[id_] = session
        return session

    async def _keep(self, session: Session) -> None:
        sealed = session.cipher.encrypt(orjson.dumps(session.tokens.kept()))
        row = (session.id, session.user_id, session.username, session.ends_at, sealed)
        try:
            await self._store.run(lambda conn: conn.execute("insert or replace into sessions values (?,?,?,?,?)", row))
        except sqlite3.Error as error:  # the session lives on in memory
            log.warning("a session cannot be stored", error=repr(error))

    async def _end(self, session: Session) -> None:
        self._open.pop(session.id, None)
        self._stored.pop(session.id, None)
        try:
            await self._store.run(lambda conn: conn.execute("delete from sessions where id = ?", (session.id,)))
        except sqlite3.Error as error:
            log.warning("a session cannot be deleted", error=repr(error))

    async def _limit(self) -> None:
        while len(self._open) > _MOST:
            await self._end(next(iter(self._open.values())))


def _session(cookie: str, username: str, ends_at: float, tokens: Tokens) -> Session:
    csrf = hashlib.sha256(b"csrf:" + cookie.encode()).hexdigest()
    return Session(_hash(cookie), tokens.caller.user_id, username, ends_at, csrf, _cipher(cookie), tokens, 0.0)


def _hash(cookie: str) -> bytes:
    return hashlib.sha256(b"id:" + cookie.encode(errors="replace")).digest()


def _cipher(cookie: str) -> Fernet:
    key = hashlib.sha256(b"tokens:" + cookie.encode(errors="replace")).digest()
    return Fernet(base64.urlsafe_b64encode(key))
