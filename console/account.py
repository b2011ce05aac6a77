"""The console's own login, for the work that it does while nobody looks.

What must stay true: it logs in at most once a minute, and less and less often while the password is wrong.
"""

import time
from collections.abc import Callable

import structlog

from console.identity import RENEW_EVERY_SECONDS, Identity, Tokens
from shared.errors import TooMany, Unauthenticated, Unavailable

log = structlog.get_logger()

USERNAME = "admin"
LOGIN_EVERY_SECONDS = 60.0
_LONGEST_SECONDS = 1800.0
_LEFT_SECONDS = 30.0


class Account:
    """Logs in as `admin` with the password that `password` returns. One caller at a time."""

    def __init__(self, identity: Identity, password: Callable[[], str], clock: Callable[[], float] = time.time) -> None:
        self._identity, self._password, self._clock = identity, password, clock
        self._tokens: Tokens | None = None
        self._renew_at = self._log_in_at = 0.0
        self._failures = 0

    async def token(self) -> str:
        """An access token. It is renewed at half of its life. Raises `ServiceError` if there is none now."""
        now = self._clock()
        if self._tokens is not None and now >= self._renew_at:
            await self._renew(self._tokens)
        if self._tokens is None:
            await self._log_in()
        if self._tokens is None or self._tokens.caller.expires_at - _LEFT_SECONDS / 2 < self._clock():
            raise Unavailable("auth does not answer, and the console's own token has expired")
        return self._tokens.access

    async def close(self) -> None:
        """End the session in auth, if it answers."""
        if self._tokens is not None:
            tokens, self._tokens = self._tokens, None
            await self._identity.log_out(tokens.refresh)

    async def _renew(self, old: Tokens) -> None:
        self._renew_at = self._clock() + RENEW_EVERY_SECONDS
        try:
            self._keep(await self._identity.refresh(old.refresh))
        except Unavailable:
            return
        except Unauthenticated as error:  # it was ended, or the answer to an earlier refresh was lost
            log.info("auth has ended the console's own session", error=error.detail)
            self._tokens = None

    async def _log_in(self) -> None:
        now = self._clock()
        if now < self._log_in_at:
            raise Unavailable(f"not logged in: the next try is in {self._log_in_at - now:.0f} s")
        self._log_in_at = now + min(LOGIN_EVERY_SECONDS * 2**self._failures, _LONGEST_SECONDS)
        self._failures = min(self._failures + 1, 10)
        try:
            tokens = await self._identity.log_in(USERNAME, self._password(), "")
        except TooMany as error:
            self._log_in_at = max(self._log_in_at, now + error.seconds)
            raise
        self._log_in_at, self._failures = now + LOGIN_EVERY_SECONDS, 0
        self._keep(tokens)

    def _keep(self, tokens: Tokens) -> None:
        self._tokens, self._renew_at = tokens, tokens.renew_at(self._clock())
