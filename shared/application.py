"""A service's application: its routes with their documents, and, opened and closed with it, what every service needs.

What must stay true: nothing is opened before the application starts; on the way down the relay goes before the pool.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar, cast

from aiohttp import web as aio

from shared import auth, db, delivery, openapi, operation, web
from shared.config import Settings
from shared.db import Pool
from shared.runtime import TASKS

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
