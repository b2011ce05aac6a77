"""Wiring: the one file of the console that knows every other."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from console.account import Account
from console.books import Books
from console.config import Settings
from console.drills.drill import Pace
from console.drills.keeper import Drills
from console.identity import Identity
from console.journal import Journal
from console.metering.alerts import Alerts
from console.metering.rules import WrongRules
from console.metering.scraper import Scraper
from console.metering.series import Series
from console.pages import routes, sources
from console.pages.guard import guard
from console.services import Services
from console.sessions import Sessions
from console.store import Store
from console.telemetry import spans
from console.telemetry.forwarding import Forwarder
from console.telemetry.logs import Tail
from console.telemetry.spans import RECEIVER, Receiver
from console.telemetry.store import Telemetry
from shared.process.supervisord import Supervisord
from shared.process.tasks import Loop
from shared.web import health, serving
from shared.web.health import TASKS


@dataclass(frozen=True)
class Sources:
    """The stores that pages read beside the services, and the tasks that fill them, in the order of their start."""

    telemetry: Telemetry
    series: Series
    alerts: Alerts
    receiver: Receiver | None = None
    tasks: Mapping[str, Loop] = field(default_factory=dict)


def collecting(settings: Settings) -> Sources:
    """Collect spans, log lines and metrics. Raises `WrongRules` if the alert rules cannot be used."""
    telemetry, series = Telemetry(settings.data_folder / "telemetry"), Series()
    alerts = Alerts(settings.alerts_file, series, settings.alert_webhook_url or None)
    tasks: dict[str, Loop] = {"telemetry": telemetry.run}
    forwarder = None
    if settings.forward_otlp_endpoint:
        forwarder = Forwarder(settings.forward_otlp_endpoint, telemetry)
        tasks["forwarder"] = forwarder.run
    if settings.log_folder:
        tasks["tail"] = Tail(Path(settings.log_folder), telemetry).run
    tasks |= {"scraper": Scraper(settings.targets, series).run, "alerts": alerts.run}
    return Sources(telemetry, series, alerts, Receiver(telemetry, forwarder), tasks)


def create_app(
    settings: Settings, read: Sources, clock: Callable[[], float] = time.time, pace: Pace | None = None
) -> web.Application:
    """Create the application. It opens nothing before it starts. `pace` is how long the parts of a drill take."""
    app = web.Application(middlewares=[guard], client_max_size=64 * 1024)
    health.add_routes(app)
    app[sources.SETTINGS], app[sources.CLOCK] = settings, clock
    app[sources.TELEMETRY], app[sources.SERIES], app[sources.ALERTS] = read.telemetry, read.series, read.alerts
    if read.receiver is not None:
        app[RECEIVER] = read.receiver
        app.add_routes(spans.routes)
    for table in routes.ALL:
        app.add_routes(table)
    app.router.add_get("/readyz", health.readyz)
    app.cleanup_ctx.append(lambda started: _lifespan(started, read, pace))
    return app


async def _lifespan(app: web.Application, read: Sources, pace: Pace | None) -> AsyncIterator[None]:
    settings, clock, tasks = app[sources.SETTINGS], app[sources.CLOCK], app[TASKS]
    async with AsyncExitStack() as stack:
        store = Store(settings.data_folder)
        stack.callback(store.close)
        no_cookies = aiohttp.DummyCookieJar()  # auth's cookie of a device would make all users one device
        http = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=no_cookies))
        identity = Identity(settings.auth_url, http)
        sessions = Sessions(store, identity, clock)
        await sessions.load()
        app[sources.SESSIONS] = sessions
        app[sources.SERVICES] = Services(settings.targets, http, clock)
        app[sources.JOURNAL] = journal = Journal(store, clock)
        app[sources.BOOKS] = books = _books(settings, http, identity, clock)
        app[sources.DRILLS] = drills = _drills(settings, store, http, clock, pace)
        more = {name: one.run for name, one in (("books", books), ("drills", drills)) if one is not None}
        for name, loop in {"sessions": sessions.run, "journal": journal.run, **read.tasks, **more}.items():
            stack.push_async_callback(tasks.start(name, loop))
        yield


def _books(
    settings: Settings, http: aiohttp.ClientSession, identity: Identity, clock: Callable[[], float]
) -> Books | None:
    if not settings.newest_admin_password():
        return None
    # Its own client: each range of orders is another address, and pages must not lose what they last saw.
    return Books(
        Services(settings.targets, http, clock), Account(identity, settings.newest_admin_password, clock), clock
    )


def _drills(
    settings: Settings, store: Store, http: aiohttp.ClientSession, clock: Callable[[], float], pace: Pace | None
) -> Drills | None:
    if not settings.supervisor_socket:
        return None
    return Drills(store, Supervisord(settings.supervisor_socket), settings.targets, http, clock, pace)


def run(settings: Settings) -> int:
    """Run the console until SIGTERM or until one of its tasks ends. Returns 0 in the first case, 1 in the second."""
    try:
        read = collecting(settings)
    except WrongRules as error:
        sys.exit(f"wrong alert rules: {error}")
    return serving.run(create_app(settings, read), settings.host, settings.port)
