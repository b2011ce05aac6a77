"""Wiring: the one file of the service that knows every other."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web as aio

from orders import api, consumer, service
from orders.config import Settings
from orders.service import Door, Skus
from orders.worker import Sweeper, Waiters
from shared import service as application
from shared.delivery import wiring as delivery
from shared.postgres.batching import Batcher
from shared.process import run as runtime
from shared.web import operations as operation

DESCRIPTION = "Orders: accepted at once, and followed until they are CONFIRMED or CANCELLED."

WAITERS = aio.AppKey("WAITERS", Waiters)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = application.create(settings, "orders", DESCRIPTION, api.routes, _lifespan)
    app[operation.TOKEN_REQUIRED] = settings.require_token
    app.on_shutdown.append(_release_waiters)
    return app


async def _lifespan(app: aio.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[runtime.TASKS]
    async with AsyncExitStack() as stack:
        pool, wake = await stack.enter_async_context(application.opened(app, settings, "orders"))
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
            app[api.UNDER_WAY] = Counter()
            app[api.PLACE], app[api.READ], app[api.SKU_OF] = door.submit, reader.submit, Skus(pool).find
        app[WAITERS], app[api.WAIT], app[api.COMMITTED] = waiters, waiters.wait, committed
        yield


async def _release_waiters(app: aio.Application) -> None:
    app[WAITERS].release()
