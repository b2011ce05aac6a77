"""Verification of access tokens with the public keys of the auth service.

What must stay true: only published keys are valid, and only the token decides who the caller is, never another header.
If auth does not answer, the known keys stay in use, and the sessions that are known to be over stay over.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from random import uniform
from typing import Any

import aiohttp
import orjson
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel
from yarl import URL

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

_WAIT_SECONDS = 20.0  # shorter than HANG_SECONDS, because the task takes no turn meanwhile
_LATE_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
_FAILURES_A_LINE = 10

Fetch = Callable[[], Awaitable[dict[str, Any]]]
"""Fetches a JWK set. It may raise any exception; then the known keys stay in use."""


class EndedSessions(BaseModel):
    """Sessions that ended, in the order in which auth noticed it.

    `next` is the `after` of the next request. After `keep_seconds` no access token of these sessions is valid any more.
    """

    sessions: list[str]
    next: str
    keep_seconds: int


Follow = Callable[[str], Awaitable[EndedSessions]]
"""The function returns the sessions that ended after a `next`. It waits until there is one. It may raise any error."""


class Verifier:
    """Turns access tokens into callers. It keeps the published keys fresh and remembers tokens that it has verified."""

    def __init__(self, fetch: Fetch, ended: Container[str] = ()) -> None:
        self._fetch, self._ended = fetch, ended
        self._keys: dict[str, Ed25519PublicKey] = {}
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
        if known.session_id in self._ended:
            raise Unauthenticated("the session is over")
        return known

    async def refresh(self) -> None:
        """Fetch the keys.

        If a key is no longer published, remembered tokens are forgotten. Raises what `fetch` raises.
        """
        async with asyncio.timeout(_FETCH_SECONDS):
            published = await self._fetch()
        keys = {jwk["kid"]: tokens.public_key(jwk) for jwk in published["keys"] if jwk.get("crv") == "Ed25519"}
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

    async def _key(self, kid: str | None) -> Ed25519PublicKey:
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


class Ended:
    """The sessions that auth has ended, as long as their access tokens may be valid. It follows auth by a long poll."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._next = ""
        self._forget_at: dict[str, float] = {}
        self._failures = 0

    def __contains__(self, session_id: object) -> bool:
        return session_id in self._forget_at

    async def follow_once(self) -> None:
        """Wait for sessions that ended, and remember them. Raises what `follow` raises."""
        found = await self._follow(self._next)
        now = time.monotonic()
        for session_id in found.sessions:  # after a restart of auth, some come again
            self._forget_at.setdefault(session_id, now + found.keep_seconds)
        self._next = found.next
        while self._forget_at and self._forget_at[oldest := next(iter(self._forget_at))] <= now:
            del self._forget_at[oldest]

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Follow until `stop` is set."""

        async def turn() -> float:
            try:
                await _unless(stop, self.follow_once())
            except Exception as error:  # noqa: BLE001 - after any error the known sessions stay over
                self._failures += 1
                if self._failures % _FAILURES_A_LINE == 0:
                    what = "auth does not tell which sessions end, trying again"
                    log.log(level_of_absence(), what, error=repr(error)[:200])
                return _RETRY_SECONDS * uniform(0.8, 1.2)
            self._failures = 0
            return _PAUSE_SECONDS

        await repeat("following of ended sessions", turn, stop, beat, trouble=())


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, or cancel it as soon as `stop` is set."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for one in (task, stopping):
            one.cancel()


@asynccontextmanager
async def verifying(tasks: Tasks, keys_url: str, ca_file: Path | None = None) -> AsyncIterator[Verifier]:
    """Yield a verifier. It keeps the keys of `keys_url` fresh, and hears of ended sessions at `ended` beside it.

    With an address of `https`, the certificate of auth is checked: with `ca_file`, if there is one.
    """
    timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
    long = aiohttp.ClientTimeout(total=_WAIT_SECONDS + _LATE_SECONDS)
    ended_url = URL(keys_url).join(URL("ended"))
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca_file)) if ca_file else None
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=cookies, connector=connector) as session:

        async def fetch() -> dict[str, Any]:
            async with session.get(keys_url, allow_redirects=False) as answer:
                found: dict[str, Any] = orjson.loads(await _read(answer))
                return found

        async def follow(after: str) -> EndedSessions:
            query = {"after": after, "wait": f"{_WAIT_SECONDS:.0f}"}
            async with session.get(ended_url, params=query, allow_redirects=False, timeout=long) as answer:
                return EndedSessions.model_validate_json(await _read(answer))

        ended = Ended(follow)
        verifier = Verifier(fetch, ended)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(tasks.start("keys", verifier.run))
            stack.push_async_callback(tasks.start("ended sessions", ended.run))
            yield verifier


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Read a small answer. Raises `ValueError` if it is too long, or no success."""
    if answer.status != HTTPStatus.OK:  # a redirect raises nothing, and its body could contain keys
        raise ValueError(f"answered {answer.status}")
    found = bytearray()
    async for piece in answer.content.iter_any():
        found += piece
        if len(found) > _MAX_BYTES:
            raise ValueError(f"the answer is longer than {_MAX_BYTES} bytes")
    return bytes(found)
