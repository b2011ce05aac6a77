"""Wiring: the one file of the service that knows every other."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web as aio

from orders import api, consumer, service
from orders.config import Settings
from orders.service import Door
from orders.worker import Sweeper, Waiters
from shared import db, delivery, runtime, web
from shared.batching import Batcher

WAITERS = aio.AppKey("WAITERS", Waiters)
SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    if "api" in settings.only:
        app.add_routes(api.routes)
    app.cleanup_ctx.append(_lifespan)
    app.on_shutdown.append(_release_waiters)
    return app


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    settings, tasks = app[SETTINGS], app[runtime.TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(db.pool(settings.database_url, size=settings.pool_size, name="orders"))
        wake = await stack.enter_async_context(delivery.outgoing(tasks, settings, pool, "orders"))
        waiters = Waiters(pool)

        def committed() -> None:
            wake()
            waiters.wake()

        await stack.enter_async_context(
            delivery.incoming(tasks, settings, pool, "orders", consumer.TOPICS, consumer.HANDLERS, committed)
        )
        if "worker" in settings.only:
            sweeper = Sweeper(pool, settings.sweep_seconds, committed)
            stack.push_async_callback(tasks.start("sweeper", sweeper.run))
        if "api" in settings.only:
            door = Batcher(
                settings.database_url,
                Door(settings.order_deadline_seconds).place,
                name="orders",
                workers=settings.door_workers,
                committed=wake,
            )
            stack.push_async_callback(tasks.start("waiters", waiters.run))
            stack.push_async_callback(tasks.start("door", door.run))
            reader = Batcher(settings.database_url, service.read, name="orders reader", workers=1)
            stack.push_async_callback(tasks.start("reader", reader.run))
            app[api.PLACE], app[api.UNDER_WAY], app[api.READ] = door.submit, Counter(), reader.submit
        app[web.POOL], app[WAITERS], app[api.WAIT], app[api.COMMITTED] = pool, waiters, waiters.wait, committed
        yield


async def _release_waiters(app: aio.Application) -> None:
    app[WAITERS].release()
