"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from payments import api, consumer, store
from payments.config import Settings
from payments.provider import FLAGS, Faults, SimulatedProvider
from payments.worker import Limits, Worker
from shared.admin import api as admin
from shared.service import Consumed, consuming, create, opened
from shared.web import database
from shared.web.health import TASKS

DESCRIPTION = "Payments: what became of the money for an order."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, "payments", DESCRIPTION, api.routes, _lifespan, store.describe, store.books)


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(opened(app, settings, "payments", [store.forget_tombstones]))
        wake_relay = app[database.COMMITTED]
        calls_here = "worker" in settings.only
        limits = Limits(
            calls_at_once=settings.calls_at_once if calls_here else 0,
            call_seconds=settings.call_seconds,
            pace_seconds=settings.worker_pace_seconds,
        )
        provider = _provider(settings)
        provider.flags = app[admin.BACKEND].flags
        if settings.failure_flags:
            provider.flags.allowed |= FLAGS
        worker = Worker(pool, provider, wake_relay, limits=limits)
        if calls_here:
            stack.push_async_callback(tasks.start("provider", provider.run))
            stack.push_async_callback(tasks.start("worker", worker.run))

        def committed() -> None:
            wake_relay()
            worker.committed()

        wanted = Consumed(consumer.TOPICS, consumer.handlers(worker), consumer.IGNORES)
        await stack.enter_async_context(consuming(app, settings, "payments", wanted, committed))
        yield


def _provider(settings: Settings) -> SimulatedProvider:
    faults = Faults(
        decline_ratio=settings.provider_decline_ratio,
        slow_seconds=settings.provider_slow_seconds,
        timeout_ratio=settings.provider_timeout_after_charge_ratio,
        error_ratio=settings.provider_error_after_charge_ratio,
        double_ratio=settings.provider_double_ratio,
        seed=settings.provider_seed,
    )
    return SimulatedProvider(settings.provider_database, limit_cents=settings.provider_limit_cents, faults=faults)
