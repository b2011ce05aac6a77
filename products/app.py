"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from products import api
from products.config import Settings
from shared import service as application

DESCRIPTION = "Products: the catalogue, which anybody may read."


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    return application.create(settings, "products", DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: aio.Application, settings: Settings) -> AsyncIterator[None]:
    async with application.opened(app, settings, "products") as (_, wake):
        app[api.COMMITTED] = wake
        yield
