"""The client of the services' admin APIs.

What must stay true: a page never waits for a service longer than a second. The last answer is kept with its time,
so a page can show it while the service does not answer. The kept answers are bounded in entries and in bytes.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

SECONDS = 1.0
WRITE_SECONDS = 1.7
_LONGEST_BYTES = 16 * 2**20
_KEPT_BYTES, _KEPT_ONE_BYTES, _KEPT_ENTRIES = 16 * 2**20, 2**20, 500


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a service. With a `problem`, `body` is its last answer, from the time `at`, or None."""

    service: str
    body: Any = None
    at: float | None = None
    problem: str = ""
    status: int = 0

    @property
    def missing(self) -> bool:
        """True if nothing of the service can be shown."""
        return self.body is None


class Services:
    def __init__(
        self,
        targets: Mapping[str, str],
        http: aiohttp.ClientSession,
        clock: Callable[[], float] = time.time,
        seconds: float = SECONDS,
    ) -> None:
        self.targets, self._http, self._clock, self._seconds = dict(targets), http, clock, seconds
        self._kept: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()
        self._kept_bytes = 0

    async def ask(
        self, token: str, path: str, query: Mapping[str, object] | None = None, only: Collection[str] = ()
    ) -> list[Answer]:
        """GET /admin/<path> of all services at once, or of `only` some. `path` is encoded already."""
        wanted = [name for name in self.targets if not only or name in only]
        url = str(URL(f"/admin/{path}", encoded=True).update_query({k: str(v) for k, v in (query or {}).items()}))
        return list(await asyncio.gather(*(self._ask(token, name, url) for name in wanted)))

    async def one(self, token: str, service: str, path: str, query: Mapping[str, object] | None = None) -> Answer:
        """GET /admin/<path> of one service."""
        [found] = await self.ask(token, path, query, [service])
        return found

    async def post(self, token: str, service: str, path: str, body: Mapping[str, object]) -> Answer:
        """POST /admin/<path> of one service. Without an answer, it may be done or not."""
        try:
            status, raw = await self._send("POST", token, service, f"/admin/{path}", WRITE_SECONDS, body)
            found = orjson.loads(raw)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return Answer(service, problem=_reason(error))
        if status >= HTTPStatus.BAD_REQUEST:
            return Answer(service, problem=_refusal(status, found), status=status)
        return Answer(service, found, self._clock(), status=status)

    async def _ask(self, token: str, service: str, url: str) -> Answer:
        try:
            status, raw = await self._send("GET", token, service, url, self._seconds)
            body = orjson.loads(raw)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return self._last(service, url, _reason(error))
        if status == HTTPStatus.OK:
            self._keep((service, url), raw)
            return Answer(service, body, self._clock(), status=status)
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
            return Answer(service, None, self._clock(), _refusal(status, body), status)
        return self._last(service, url, _refusal(status, body), status)

    async def _send(
        self, method: str, token: str, service: str, url: str, seconds: float, body: Mapping[str, object] | None = None
    ) -> tuple[int, bytes]:
        address = URL(self.targets[service] + url, encoded=True)
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            asyncio.timeout(seconds),
            self._http.request(method, address, headers=headers, json=body, allow_redirects=False) as answer,
        ):
            raw = bytearray()
            async for piece in answer.content.iter_any():
                raw += piece
                if len(raw) > _LONGEST_BYTES:
                    raise ValueError("the answer is too long")
            return answer.status, bytes(raw)

    def _last(self, service: str, url: str, problem: str, status: int = 0) -> Answer:
        raw, at = self._kept.get((service, url), (None, None))
        return Answer(service, None if raw is None else orjson.loads(raw), at, problem, status)

    def _keep(self, what: tuple[str, str], raw: bytes) -> None:
        if len(raw) > _KEPT_ONE_BYTES:
            return
        old = self._kept.pop(what, None)
        self._kept_bytes += len(raw) - (len(old[0]) if old else 0)
        self._kept[what] = (raw, self._clock())
        while len(self._kept) > _KEPT_ENTRIES or self._kept_bytes > _KEPT_BYTES:
            _, (dropped, _) = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)


def part(text: object) -> str:
    """A part of a path. A slash or a dot in it does not change the path."""
    return quote(str(text), safe="", errors="replace").replace(".", "%2E")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error)[:200] if isinstance(error, ValueError) else "no connection"


def _refusal(status: int, body: Any) -> str:
    detail = str(body.get("detail", "")) if isinstance(body, dict) else ""
    return f"answered {status}: {detail[:500]}" if detail else f"answered {status}"
