"""A service's application: its routes with their documents, and, opened and closed with it, what every service needs.

What must stay true: nothing is opened before the application starts; on the way down the relay goes before the pool.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar, cast

from aiohttp import web as aio

from shared.delivery import wiring as delivery
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.configuration import Settings
from shared.process.run import TASKS
from shared.web import openapi
from shared.web import operations as operation
from shared.web import requests as web
from shared.web import verification as auth

S = TypeVar("S", bound=Settings)

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create(
    settings: S,
    name: str,
    description: str,
    routes: aio.RouteTableDef,
    lifespan: Callable[[aio.Application, S], AsyncIterator[None]],
) -> aio.Application:
    """Build the application of the service called `name`; what is not its part in this process is left out."""
    app, common = web.application(), cast("Settings", settings)
    app[SETTINGS] = common
    if "api" in settings.only:
        app.add_routes(routes)
        openapi.serve(app, name, description)
    app.cleanup_ctx.append(lambda started: lifespan(started, settings))
    return app


@asynccontextmanager
async def opened(app: aio.Application, settings: Settings, name: str) -> AsyncIterator[tuple[Pool, Callable[[], None]]]:
    """Give the application its pool and what verifies tokens, and run its relay.

    Yields the pool, and what to call after a commit with new events.
    """
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(db.pool(settings.database_url, size=settings.pool_size, name=name))
        app[web.POOL] = pool
        if "api" in settings.only:
            app[operation.VERIFIER] = await stack.enter_async_context(auth.verifying(tasks, settings.auth_jwks_url))
        yield pool, await stack.enter_async_context(delivery.outgoing(tasks, settings, pool, name))
