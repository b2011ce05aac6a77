"""Wiring: the one file of the storefront that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from shared.delivery.kafka import Brokers
from shared.process.supervisord import Supervisord
from shared.web import health
from shared.web.health import TASKS
from storefront import pages
from storefront.config import Settings
from storefront.events import Events
from storefront.memory import Memory
from storefront.outage import Outage
from storefront.pages import BACKEND, Backend
from storefront.shop import Shop

EVENTS = web.AppKey("EVENTS", Events)


def create_app(settings: Settings, brokers: Brokers) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    app = web.Application(middlewares=[pages.guard], client_max_size=64 * 1024)
    health.add_routes(app)
    app.router.add_get("/readyz", _readyz)
    app.add_routes(pages.routes)
    app.add_routes(pages.files)
    app.cleanup_ctx.append(lambda started: _lifespan(started, settings, brokers))
    return app


async def _lifespan(app: web.Application, settings: Settings, brokers: Brokers) -> AsyncIterator[None]:
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        memory = Memory()
        tasks.when_draining(memory.wake)
        app[EVENTS] = events = Events(brokers, memory)
        stack.push_async_callback(events.close)
        stack.push_async_callback(tasks.start("events", events.run))
        outage = Outage(Supervisord(settings.supervisor_socket)) if settings.supervisor_socket else None
        if outage is not None:
            stack.push_async_callback(tasks.start("outage", outage.run))
        app[BACKEND] = Backend(Shop(settings, http), memory, outage)
        yield


async def _readyz(request: web.Request) -> web.Response:
    """503 until it reads events: the first visitor must see the whole way of the first order."""
    if not request.app[EVENTS].has_begun:
        return web.Response(status=503, text="Kafka was not reached yet")
    return await health.readyz(request)
