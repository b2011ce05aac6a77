"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from inventory import api, consumer, service
from inventory.config import Settings
from shared import service as application
from shared.delivery import wiring as delivery
from shared.process import run as runtime

DESCRIPTION = "Inventory: how much there is of each sku."


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    return application.create(settings, "inventory", DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: aio.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[runtime.TASKS]
    async with (
        application.opened(app, settings, "inventory") as (pool, wake),
        delivery.incoming(
            tasks, settings, pool, "inventory", consumer.TOPICS, consumer.HANDLERS, wake, also_lock=service.TURN
        ),
    ):
        yield
