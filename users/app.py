"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from shared import delivery, openapi, runtime, web
from users import api, consumer
from users.config import Settings

DESCRIPTION = "Users: what people say of themselves, for themselves and for administrators."

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    if "api" in settings.only:
        app.add_routes(api.routes)
        openapi.serve(app, "users", DESCRIPTION)
    app.cleanup_ctx.append(_lifespan)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    settings, tasks = app[SETTINGS], app[runtime.TASKS]
    async with (
        delivery.opened(app, settings, "users") as (pool, wake),
        delivery.incoming(tasks, settings, pool, "users", consumer.TOPICS, consumer.HANDLERS, wake),
    ):
        app[api.COMMITTED] = wake
        yield
