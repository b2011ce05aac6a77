"""Posts alerts to a webhook, one after the other.

What must stay true: a webhook that is slow or down costs no memory without bound and no evaluation. A message is tried
a few times with back-off; then the next one follows. `alert_notifications_total` counts what became of the messages.
"""

import asyncio
from collections import deque

import aiohttp
import structlog
from prometheus_client import Counter

from shared.process.backoff import Backoff
from shared.process.loop import Beat

log = structlog.get_logger()

SENT = Counter("alert_notifications_total", "Messages to the webhook, by what became of them", ["outcome"])

MAX_WAITING = 200
MAX_ATTEMPTS = 10
_LONGEST_PAUSE_SECONDS = 60.0
_LIMIT_SECONDS = 5.0


class Webhook:
    """A bounded queue in front of a URL. If it is full, the oldest message is dropped."""

    def __init__(self, url: str, *, first_pause_seconds: float = 0.5) -> None:
        self._url, self._first_pause = url, first_pause_seconds
        self._waiting: deque[dict[str, object]] = deque()
        self._more = asyncio.Event()

    def add(self, message: dict[str, object]) -> None:
        """Send a message later."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            SENT.labels("dropped").inc()
        self._waiting.append(message)
        self._more.set()

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Send messages until `stop` is set. Messages that still wait then are dropped."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_LIMIT_SECONDS)) as session:
            ending = asyncio.create_task(stop.wait())
            while not stop.is_set():
                beat()
                self._more.clear()
                while self._waiting and not stop.is_set():
                    outcome = await self._send(session, self._waiting.popleft(), stop)
                    SENT.labels(outcome).inc()
                more = asyncio.create_task(self._more.wait())
                await asyncio.wait([ending, more], return_when=asyncio.FIRST_COMPLETED)
                more.cancel()

    async def _send(self, session: aiohttp.ClientSession, message: dict[str, object], stop: asyncio.Event) -> str:
        backoff = Backoff(self._first_pause, _LONGEST_PAUSE_SECONDS)
        for _ in range(MAX_ATTEMPTS):
            try:
                async with session.post(self._url, json=message, allow_redirects=False) as answer:
                    if answer.status < 300:
                        return "sent"
                    if answer.status < 500 and answer.status != 429:
                        log.warning("the webhook refuses an alert", status=answer.status)
                        return "refused"
                    error = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as failure:
                error = type(failure).__name__  # its text may have the URL, and the URL a secret
            log.warning("the webhook did not take an alert, trying again", error=error)
            await backoff.wait(stop)
            if stop.is_set():
                break
        return "failed"
