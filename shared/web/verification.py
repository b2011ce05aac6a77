"""Who calls: access tokens, verified by every service for itself from the keys that the auth service publishes.

What must stay true: only a key that is published counts, and a caller is what the token says, never what another
header claims. Without an answer from auth the keys that are known stay in use.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from random import uniform
from typing import Any

import aiohttp
import jwt
import orjson
import structlog

from shared.errors import Unauthenticated, Unavailable
from shared.process.backoff import wait
from shared.process.run import Beat, Tasks
from shared.web import tokens
from shared.web.tokens import Caller

log = structlog.get_logger()

_REFRESH_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 0.1
_FETCH_SECONDS = 1.5
_MAX_BYTES = 64 * 1024
_REMEMBERED = 10_000

Fetch = Callable[[], Awaitable[dict[str, Any]]]
"""Gets a JWK set. Raises whatever it likes; the keys that are known then stay."""


class Verifier:
    """Turns access tokens into callers; keeps the published keys fresh, and remembers tokens that it has verified."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._known: dict[str, Caller] = {}

    async def verify(self, token: str) -> Caller:
        """Give the caller whose access token this is. Raises `Unauthenticated`, or `Unavailable` without any keys."""
        known = self._known.get(token)
        if known is None:
            known = await self._read(token)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[token] = known
        if known.expires_at + tokens.LEEWAY_SECONDS <= time.time():
            del self._known[token]
            raise Unauthenticated("the token has expired")
        return known

    async def refresh(self) -> None:
        """Fetch the keys; what was signed by one that is published no more counts no more. Raises as `fetch` does."""
        async with asyncio.timeout(_FETCH_SECONDS):
            published = await self._fetch()
        keys = {
            jwk["kid"]: jwt.PyJWK(jwk, tokens.ALGORITHM) for jwk in published["keys"] if jwk.get("crv") == "Ed25519"
        }
        if self._keys.keys() - keys.keys():
            self._known.clear()
        self._keys = keys

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Keep the keys fresh until `stop`; without an answer, those that are known stay in use."""
        while not stop.is_set():
            beat()
            async with self._fetching:
                await self._try_refresh()
            await wait(stop, (_REFRESH_SECONDS if self._keys else _RETRY_SECONDS) * uniform(0.8, 1.2))

    async def _read(self, token: str) -> Caller:
        return tokens.read(token, await self._key(tokens.key_id(token)))

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        if kid not in self._keys:
            async with self._fetching:  # one asks, the others wait for it; not more often, whoever makes up kids
                pause = _RETRY_SECONDS if self._keys else _FIRST_RETRY_SECONDS
                if kid not in self._keys and time.monotonic() - self._tried_at > pause:
                    await self._try_refresh()
        if not self._keys:
            raise Unavailable("the keys that tokens are verified with cannot be had right now")
        if kid not in self._keys:
            raise Unauthenticated("the token is signed by a key that is not published")
        return self._keys[kid]

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with an answer, the keys that are known stay
            log.warning("keys could not be fetched, trying again", error=repr(error)[:200])
        finally:  # the pause is from its end: else, when fetching hangs, those who waited would hang one after another
            self._tried_at = time.monotonic()


@asynccontextmanager
async def verifying(tasks: Tasks, keys_url: str) -> AsyncIterator[Verifier]:
    """Yield a verifier that fetches the keys from an address, and keeps them fresh."""
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def fetch() -> dict[str, Any]:
            async with session.get(keys_url, allow_redirects=False) as answer:
                if answer.status != HTTPStatus.OK:  # a redirect, which raises nothing, may come with keys of its own
                    raise ValueError(f"answered {answer.status}")
                found: dict[str, Any] = orjson.loads(await _read(answer))
                return found

        verifier = Verifier(fetch)
        end = tasks.start("keys", verifier.run)
        try:
            yield verifier
        finally:
            await end()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Read an answer that is as small as keys are. Raises `ValueError` when it is not."""
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > _MAX_BYTES:
            raise ValueError(f"the keys are longer than {_MAX_BYTES} bytes")
    return bytes(found)
