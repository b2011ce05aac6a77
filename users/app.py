"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator

from aiohttp import web

from shared.service import Consumed, consuming, create, opened
from users import api, consumer
from users.config import Settings

DESCRIPTION = "Users: what people say of themselves, for themselves and for administrators."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, "users", DESCRIPTION, api.routes, _lifespan)


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    async with (
        opened(app, settings, "users"),
        consuming(app, settings, "users", Consumed(consumer.TOPICS, consumer.HANDLERS)),
    ):
        yield
