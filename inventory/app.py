"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from inventory import api, consumer, service
from inventory.config import Settings
from shared import delivery, openapi, runtime, web

DESCRIPTION = "Inventory: how much there is of each sku."

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    if "api" in settings.only:
        app.add_routes(api.routes)
        openapi.serve(app, "inventory", DESCRIPTION)
    app.cleanup_ctx.append(_lifespan)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    settings, tasks = app[SETTINGS], app[runtime.TASKS]
    async with (
        delivery.opened(app, settings, "inventory") as (pool, wake),
        delivery.incoming(
            tasks, settings, pool, "inventory", consumer.TOPICS, consumer.HANDLERS, wake, also_lock=service.TURN
        ),
    ):
        yield
