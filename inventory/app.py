"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from inventory import consumer
from inventory.config import Settings
from shared import delivery, runtime, web

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    app.cleanup_ctx.append(_lifespan)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    settings, tasks = app[SETTINGS], app[runtime.TASKS]
    async with (
        delivery.opened(app, settings, "inventory") as (pool, wake),
        delivery.incoming(
            tasks, settings, pool, "inventory", consumer.TOPICS, consumer.HANDLERS, wake, also_lock=consumer.TURN
        ),
    ):
        yield
