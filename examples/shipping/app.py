"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web

from shared.service import Consumed, consuming, create, opened

from . import api, consumer
from .config import Settings

NAME = "shipping"
DESCRIPTION = "Shipping: a parcel for each confirmed order."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, NAME, DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    consumed = Consumed(consumer.TOPICS, consumer.HANDLERS, consumer.IGNORES)
    async with opened(app, settings, NAME), consuming(app, settings, NAME, consumed):
        yield
