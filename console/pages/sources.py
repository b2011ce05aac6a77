"""The sources of all pages: telemetry, series of metrics, alerts, the services, the sessions and the journal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from aiohttp import web

from console.books import Books
from console.config import Settings
from console.drills.keeper import Drills
from console.journal import Journal
from console.metering.alerts import Alerts
from console.metering.series import Series
from console.services import Services
from console.sessions import Sessions
from console.telemetry.store import Telemetry
from shared.errors import Unavailable

log = structlog.get_logger()

T = TypeVar("T")

SECONDS = 0.8


SETTINGS = web.AppKey("SETTINGS", Settings)
SESSIONS = web.AppKey("SESSIONS", Sessions)
SERVICES = web.AppKey("SERVICES", Services)
JOURNAL = web.AppKey("JOURNAL", Journal)
TELEMETRY = web.AppKey("TELEMETRY", Telemetry)
SERIES = web.AppKey("SERIES", Series)
ALERTS = web.AppKey("ALERTS", Alerts)
BOOKS: web.AppKey[Books | None] = web.AppKey("BOOKS")
"""None: the console has no password."""
DRILLS: web.AppKey[Drills | None] = web.AppKey("DRILLS")
"""None: this is not the embedded stack."""
CLOCK: web.AppKey[Callable[[], float]] = web.AppKey("CLOCK")


async def soon(work: Awaitable[T], default: T) -> tuple[T, bool]:
    """The result of the console's own store and True. False if it does not come in time, or is incomplete."""
    try:
        async with asyncio.timeout(SECONDS):
            found = await work
            return found, getattr(found, "complete", True)
    except (TimeoutError, Unavailable):
        return default, False
    except Exception:
        log.exception("the telemetry of the console cannot be read")
        return default, False
