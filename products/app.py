"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web

from products import api
from products.config import Settings
from shared.service import create, opened

DESCRIPTION = "Products: the catalogue, which anybody may read."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, "products", DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    async with opened(app, settings, "products"):
        yield
