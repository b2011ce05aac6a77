"""Sends the bodies that were received to another OTLP endpoint too.

What must stay true: a slow or dead endpoint costs a bounded amount of memory and delays no other work. A body that the
endpoint does not accept is counted as dropped.
"""

import asyncio
from dataclasses import dataclass
from io import BytesIO

import aiohttp
import structlog

from console.telemetry.pending import Pending
from console.telemetry.store import Telemetry
from shared.process.backoff import Backoff, wait
from shared.process.loop import Beat

log = structlog.get_logger()

BODIES, BYTES = 200, 16_000_000
ATTEMPTS = 4
SECONDS = 5.0
PAUSE_SECONDS = 1.0
PASSING = {408, 429, 500, 502, 503, 504}
"""Statuses that may be others at the next attempt."""
LOGGED_EVERY = 100


@dataclass(frozen=True, slots=True)
class Body:
    content: bytes

    @property
    def size(self) -> int:
        return len(self.content) + 100


@dataclass(frozen=True, slots=True)
class Failure:
    why: str
    passes: bool


class Forwarder:
    """`endpoint` is like `OTEL_EXPORTER_OTLP_ENDPOINT`: `/v1/traces` is added to it."""

    def __init__(self, endpoint: str, telemetry: Telemetry) -> None:
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._telemetry = telemetry
        self._bodies: Pending[Body] = Pending(BODIES, BYTES)
        self._some = asyncio.Event()
        self._failed = 0

    def add(self, content: bytes) -> None:
        if self._bodies.add(Body(content)):
            self._some.set()
        else:
            self._telemetry.count_dropped("forwarded", 1)

    async def run(self, stop: asyncio.Event, beat: Beat) -> None:
        """Send bodies in order, until `stop` is set. Bodies that still wait then are dropped."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
            while not stop.is_set():
                beat()
                self._some.clear()
                for body in self._bodies.take(1, BYTES):
                    self._some.set()
                    await self._deliver(session, body, stop)
                if not self._some.is_set():
                    await wait(self._some, PAUSE_SECONDS)

    async def _deliver(self, session: aiohttp.ClientSession, body: Body, stop: asyncio.Event) -> None:
        backoff = Backoff(cap_seconds=5.0)
        failure: Failure | None = None
        for _ in range(ATTEMPTS):
            failure = await self._send(session, body)
            if failure is None:
                return
            if not failure.passes or stop.is_set():
                break
            await backoff.wait(stop)
        self._lost(failure)

    async def _send(self, session: aiohttp.ClientSession, body: Body) -> Failure | None:
        try:
            headers = {"Content-Type": "application/x-protobuf"}
            content = BytesIO(body.content)
            async with session.post(self._url, data=content, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Failure(repr(error)[:500], passes=True)
        return None if status < 300 else Failure(f"status {status}", passes=status in PASSING)

    def _lost(self, failure: Failure | None) -> None:
        self._telemetry.count_dropped("forwarded", 1)
        if self._failed % LOGGED_EVERY == 0:
            log.warning("spans could not be forwarded", url=self._url, why=failure and failure.why)
        self._failed += 1
