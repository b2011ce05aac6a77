"""The client of auth: log in, refresh, log out.

What must stay true: a caller is known only from a token whose signature was verified with the published keys.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog

from shared.errors import ServiceError, TooMany, Unauthenticated, Unavailable
from shared.web.tokens import Caller
from shared.web.verification import Verifier

SECONDS = 5.0
"""How long one call may take. A refresh whose answer is lost cannot be repeated, so this is longer than a page."""

RENEW_EVERY_SECONDS = 5.0
"""So often a token is renewed at most."""

_SILENT = "auth does not answer"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tokens:
    """A verified access token, the refresh token that follows, and whose they are."""

    access: str
    refresh: str
    caller: Caller

    def renew_at(self, now: float) -> float:
        """When to renew the access token: at half of the time that it has left, but not at once again."""
        return now + max(RENEW_EVERY_SECONDS, (self.caller.expires_at - now) / 2)

    def kept(self) -> dict[str, object]:
        """The fields that `stored` needs, as JSON."""
        known = self.caller
        roles = sorted(known.roles)
        return {"access": self.access, "refresh": self.refresh, "caller": [known.user_id, roles, known.expires_at]}

    @classmethod
    def stored(cls, kept: dict[str, Any]) -> "Tokens":
        user_id, roles, expires_at = kept["caller"]
        return cls(kept["access"], kept["refresh"], Caller(user_id, frozenset(roles), "", expires_at))


class Identity:
    def __init__(self, auth_url: str, http: aiohttp.ClientSession) -> None:
        self._url, self._http = auth_url, http
        self._verifier = Verifier(self._keys)

    async def log_in(self, username: str, password: str, address: str) -> Tokens:
        """Raises `Unauthenticated`, `TooMany`, or `Unavailable`.

        auth counts the guesses of each `address`. An empty one is the console's own.
        """
        body = {"username": username, "password": password}
        return await self._tokens("login", body, {"X-Real-IP": address} if address else {})

    async def refresh(self, refresh_token: str) -> Tokens:
        """Exchange a refresh token. Raises `Unauthenticated` if its session is over, or `Unavailable`."""
        return await self._tokens("refresh", {"refresh_token": refresh_token}, {})

    async def log_out(self, refresh_token: str) -> None:
        """End the session of auth, if auth answers."""
        try:
            await self._post("logout", {"refresh_token": refresh_token}, {})
        except ServiceError as error:
            log.info("auth was not told of a logout", error=repr(error))

    async def _tokens(self, what: str, body: dict[str, str], headers: dict[str, str]) -> Tokens:
        found = await self._post(what, body, headers)
        try:
            access, refresh = str(found["token"]), str(found["refresh_token"])
        except (TypeError, KeyError):
            raise Unavailable(_SILENT) from None
        return Tokens(access, refresh, await self._verifier.verify(access))

    async def _post(self, path: str, body: dict[str, str], headers: dict[str, str]) -> Any:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        url = f"{self._url}/auth/{path}"
        try:
            async with self._http.post(url, json=body, headers=headers, timeout=timeout) as answer:
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise _error(answer)
                return await answer.json() if answer.status == HTTPStatus.OK else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(_SILENT) from error

    async def _keys(self) -> dict[str, Any]:
        async with self._http.get(f"{self._url}/auth/jwks.json", allow_redirects=False) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found


def _error(answer: aiohttp.ClientResponse) -> ServiceError:
    if answer.status in {400, 401}:  # auth answers 400 to a name that nobody can have
        return Unauthenticated("wrong username or password")
    if answer.status == 429:
        after = answer.headers.get("Retry-After", "")
        return TooMany("too many wrong passwords: wait and try again", int(after) if after.isdecimal() else 30)
    return Unavailable(_SILENT)
