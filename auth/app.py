"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web as aio

from auth import api, consumer, service, worker
from auth.config import Settings
from auth.service import Keyring, Limits, Logins, Passwords
from shared import db, delivery, openapi, runtime, web

DESCRIPTION = "Auth: who may log in, who is logged in, and the keys that prove it."

SETTINGS = aio.AppKey("SETTINGS", Settings)


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    app = web.application()
    app[SETTINGS] = settings
    if "api" in settings.only:
        app.add_routes(api.routes)
        openapi.serve(app, "auth", DESCRIPTION)
    app.cleanup_ctx.append(_lifespan)
    return app


async def rotate_keys(settings: Settings) -> str:
    """Publish a new key, which will sign in `key_lead_seconds`; returns its name."""
    async with db.pool(settings.database_url, size=1, name="auth rotate") as pool, db.transaction(pool) as conn:
        return await service.rotate_keys(conn, settings.key_lead_seconds, settings.access_token_seconds)


async def _lifespan(app: aio.Application) -> AsyncIterator[None]:
    settings, tasks = app[SETTINGS], app[runtime.TASKS]
    async with AsyncExitStack() as stack:
        pool, wake = await stack.enter_async_context(delivery.opened(app, settings, "auth"))
        await stack.enter_async_context(
            delivery.incoming(tasks, settings, pool, "auth", consumer.TOPICS, consumer.HANDLERS, wake)
        )
        keyring = Keyring(pool, settings.access_token_seconds)
        logins = Logins(pool, keyring, Passwords(settings.hashes_at_once), _limits(settings), wake)
        await worker.try_reload(keyring)  # before the door opens: who takes over from another knows what it knew
        stack.push_async_callback(tasks.start("keyring", partial(worker.keep, keyring)))
        if "worker" in settings.only:
            housekeeper = worker.Housekeeper(pool, logins, settings.admin_password.get_secret_value())
            stack.push_async_callback(tasks.start("housekeeper", housekeeper.run))
        app[api.KEYRING], app[api.LOGINS] = keyring, logins
        yield


def _limits(settings: Settings) -> Limits:
    return Limits(
        access_seconds=settings.access_token_seconds,
        refresh_seconds=settings.refresh_token_seconds,
        per_account=settings.free_failures_per_account,
        per_address=settings.free_failures_per_address,
    )
