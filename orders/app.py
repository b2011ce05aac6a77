"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from orders import api, consumer, service, store
from orders.api import Backend
from orders.canary import Canary
from orders.catalogue import Skus
from orders.config import Settings
from orders.placement import Placement
from orders.pressure import Pressure
from orders.waiters import Waiters
from orders.worker import Sweeper
from shared.postgres import GroupCommit
from shared.service import Consumed, consuming, create, opened
from shared.web import database, operations
from shared.web.admission import ADMISSION, Closed
from shared.web.health import TASKS

DESCRIPTION = "Orders: accepted at once, and followed until they are CONFIRMED or CANCELLED."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    app = create(settings, "orders", DESCRIPTION, api.routes, _lifespan, store.describe, store.books)
    app[operations.TOKEN_REQUIRED] = settings.require_token
    app[operations.LOOPBACK_SECRETS] = settings.loopback_secrets()
    return app


def _close(app: web.Application, why: str) -> None:
    """Refuse new orders from now on, or, without a reason, accept them again."""
    app[ADMISSION].closed = dict.fromkeys(api.PLACING, Closed("saga", why)) if why else {}


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(opened(app, settings, "orders"))
        wake_relay, waiters = app[database.COMMITTED], Waiters(pool)

        def committed() -> None:
            wake_relay()
            waiters.wake()

        app[database.COMMITTED] = committed
        await stack.enter_async_context(
            consuming(
                app,
                settings,
                "orders",
                Consumed(consumer.TOPICS, consumer.HANDLERS, consumer.IGNORES, consumer.STATES),
            )
        )
        if "worker" in settings.only:
            sweeper = Sweeper(pool, settings.sweep_seconds, committed)
            stack.push_async_callback(tasks.start("sweeper", sweeper.run))
            if settings.canary_seconds:
                canary = Canary(pool, settings.canary_seconds, committed)
                stack.push_async_callback(tasks.start("canary", canary.run))
        if "api" in settings.only:
            placement = Placement(
                settings.database,
                settings.order_deadline_seconds,
                wake_relay,  # a new order is not final: no waiter has to look
                workers=settings.group_commit_workers,
            )
            pressure = Pressure(
                pool,
                settings.order_deadline_seconds,
                settings.max_open_orders,
                int(settings.max_database_gigabytes * 1e9),
                app[ADMISSION].is_busy,
                partial(_close, app),
            )
            reader = GroupCommit(settings.database, service.read, name="orders reader", workers=1, max_batch=1024)
            stack.push_async_callback(tasks.start("waiters", waiters.run))
            stack.push_async_callback(tasks.start("placement", placement.run))
            stack.push_async_callback(tasks.start("pressure", pressure.run))
            stack.push_async_callback(tasks.start("reader", reader.run))
            app[ADMISSION].watch("group commit", placement.waited_seconds)
            app[ADMISSION].watch("reader", reader.waited_seconds)
            app[api.BACKEND] = Backend(placement, pressure, reader, Skus(pool), waiters)
            tasks.when_draining(waiters.release)
        yield
