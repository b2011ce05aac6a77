"""Verification of access tokens with the public keys of the auth service.

What must stay true: only published keys are valid, and only the token decides who the caller is, never another header.
If auth does not answer, the known keys stay in use.
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

from ..errors import Unauthenticated, Unavailable
from ..process.logs import level_of_absence
from ..process.loop import Beat, repeat
from ..process.tasks import Tasks
from . import tokens
from .tokens import Caller

log = structlog.get_logger()

_REFRESH_SECONDS = 10.0
_RETRY_SECONDS = 1.0
_FIRST_RETRY_SECONDS = 0.1
_FETCH_SECONDS = 1.5
_MAX_BYTES = 64 * 1024
_REMEMBERED = 10_000

Fetch = Callable[[], Awaitable[dict[str, Any]]]
"""Fetches a JWK set. It may raise any exception; then the known keys stay in use."""


class Verifier:
    """Turns access tokens into callers. It keeps the published keys fresh and remembers tokens that it has verified."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._known: dict[str, Caller] = {}

    async def verify(self, token: str) -> Caller:
        """The caller of an access token. Raises `Unauthenticated`, or `Unavailable` while no keys are known."""
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
        """Fetch the keys.

        If a key is no longer published, remembered tokens are forgotten. Raises what `fetch` raises.
        """
        async with asyncio.timeout(_FETCH_SECONDS):
            published = await self._fetch()
        keys = {
            jwk["kid"]: jwt.PyJWK(jwk, tokens.ALGORITHM) for jwk in published["keys"] if jwk.get("crv") == "Ed25519"
        }
        if self._keys.keys() - keys.keys():
            self._known.clear()
        self._keys = keys

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Keep the keys fresh until `stop` is set."""

        async def turn() -> float:
            async with self._fetching:
                await self._try_refresh()
            return (_REFRESH_SECONDS if self._keys else _RETRY_SECONDS) * uniform(0.8, 1.2)

        await repeat("refresh of keys", turn, stop, beat, trouble=())

    async def _read(self, token: str) -> Caller:
        return tokens.read(token, await self._key(tokens.key_id(token)))

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        if kid not in self._keys:
            async with self._fetching:  # one request at a time, with a pause, however many unknown kids come
                pause = _RETRY_SECONDS if self._keys else _FIRST_RETRY_SECONDS
                if kid not in self._keys and time.monotonic() - self._tried_at > pause:
                    await self._try_refresh()
        if not self._keys:
            raise Unavailable("the keys that verify tokens are not available right now")
        if kid not in self._keys:
            raise Unauthenticated("the token is signed by a key that is not published")
        return self._keys[kid]

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except Exception as error:  # noqa: BLE001 - after any error the known keys stay in use
            log.log(level_of_absence(), "keys could not be fetched, trying again", error=repr(error)[:200])
        finally:  # the pause starts at the end of a fetch; otherwise each waiting caller would start another
            self._tried_at = time.monotonic()


@asynccontextmanager
async def verifying(tasks: Tasks, keys_url: str) -> AsyncIterator[Verifier]:
    """Yield a verifier that fetches the keys from `keys_url` and keeps them fresh."""
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def fetch() -> dict[str, Any]:
            async with session.get(keys_url, allow_redirects=False) as answer:
                if answer.status != HTTPStatus.OK:  # a redirect raises nothing, and its body could contain keys
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
    """Read a small answer. Raises `ValueError` if it is too long for a set of keys."""
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > _MAX_BYTES:
            raise ValueError(f"the keys are longer than {_MAX_BYTES} bytes")
    return bytes(found)
