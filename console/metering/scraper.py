"""Reads the metrics of all services every five seconds.

What must stay true: a service that does not answer costs nothing but its own `up`, which is 0, and its series end.
"""

import asyncio
import time
from collections.abc import Mapping
from random import uniform

import aiohttp
import structlog
from prometheus_client import generate_latest

from console.metering import exposition
from console.metering.series import Series
from shared.process.backoff import wait
from shared.process.logs import level_of_absence
from shared.process.loop import Beat

log = structlog.get_logger()

EVERY_SECONDS = 5.0
LIMIT_SECONDS = 1.0
MAX_BYTES = 8_000_000
OWN = "console"
"""The label `service` of this process's own metrics."""

TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError, ValueError)


class Scraper:
    """Stores the metrics of `targets`, pairs of a service's name and its address, in `series`."""

    def __init__(self, targets: Mapping[str, str], series: Series) -> None:
        self._targets, self._series = dict(targets), series
        self.down: dict[str, str] = {}
        """The services that did not answer the last time, and why."""

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Scrape until `stop` is set."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_SECONDS)) as session:
            while not stop.is_set():
                beat()
                started = time.monotonic()
                await self.run_once(session)
                spent = time.monotonic() - started
                await wait(stop, max(0.1, EVERY_SECONDS * uniform(0.95, 1.05) - spent))

    async def run_once(self, session: aiohttp.ClientSession) -> None:
        """Scrape each target once, all at the same time."""
        await asyncio.gather(*(self._scrape(session, name, url) for name, url in self._targets.items()))
        self._store(OWN, generate_latest().decode())

    async def _scrape(self, session: aiohttp.ClientSession, service: str, url: str) -> None:
        try:
            text = await _get(session, f"{url.rstrip('/')}/metrics")
        except TROUBLE as error:
            if service not in self.down:
                why = repr(error)[:500]
                log.log(level_of_absence(), "metrics of a service cannot be read", service=service, error=why)
            self.down[service] = repr(error)[:200]
            self._series.add(service, time.time(), [("up", "0")], {"service": service})
        else:
            if self.down.pop(service, None):
                log.info("metrics of a service can be read again", service=service)
            self._store(service, text)

    def _store(self, service: str, text: str) -> None:
        self._series.add(service, time.time(), [("up", "1"), *exposition.lines(text)], {"service": service})


async def _get(session: aiohttp.ClientSession, url: str) -> str:
    """The body of the answer. Raises one of `TROUBLE`, also if the body is too large."""
    headers = {"Accept": "text/plain;version=0.0.4"}
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"status {answer.status}")
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > MAX_BYTES:
                raise ValueError(f"over {MAX_BYTES} bytes")
        return body.decode()
