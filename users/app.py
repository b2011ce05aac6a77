"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from shared import delivery, web
from users.config import Settings

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    app.cleanup_ctx.append(_lifespan)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    async with delivery.opened(app, app[SETTINGS], "users"):
        yield
