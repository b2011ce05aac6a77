"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web as aio

from shared import service as application
from shared.delivery import wiring as delivery
from shared.process import run as runtime
from users import api, consumer
from users.config import Settings

DESCRIPTION = "Users: what people say of themselves, for themselves and for administrators."


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    return application.create(settings, "users", DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: aio.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[runtime.TASKS]
    async with (
        application.opened(app, settings, "users") as (pool, wake),
        delivery.incoming(tasks, settings, pool, "users", consumer.TOPICS, consumer.HANDLERS, wake),
    ):
        app[api.COMMITTED] = wake
        yield
