"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from products import api
from products.config import Settings
from shared import delivery, openapi, web

DESCRIPTION = "Products: the catalogue, which anybody may read."

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    if "api" in settings.only:
        app.add_routes(api.routes)
        openapi.serve(app, "products", DESCRIPTION)
    app.cleanup_ctx.append(_lifespan)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    async with delivery.opened(app, app[SETTINGS], "products") as (_, wake):
        app[api.COMMITTED] = wake
        yield
