"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web

from inventory import api, consumer, service, store
from inventory.config import Settings
from shared.service import Consumed, consuming, create, opened

DESCRIPTION = "Inventory: how much there is of each sku."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, "inventory", DESCRIPTION, api.routes, _lifespan, store.describe, store.books)


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    async with (
        opened(app, settings, "inventory", [store.forget_tombstones, store.forget_restocks]),
        consuming(
            app,
            settings,
            "inventory",
            Consumed(consumer.TOPICS, consumer.HANDLERS, states=consumer.STATES, also_lock=service.STOCK_LOCK),
        ),
    ):
        yield
