"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web as aio

from auth import api, consumer, service, worker
from auth.config import Settings
from auth.service import Keyring, Limits, Logins, Passwords
from shared import service as application
from shared.delivery import wiring as delivery
from shared.postgres import connections as db
from shared.process import run as runtime

DESCRIPTION = "Auth: who may log in, who is logged in, and the keys that prove it."


def create_app(settings: Settings) -> aio.Application:
    """Build the application; nothing is opened before it starts."""
    return application.create(settings, "auth", DESCRIPTION, api.routes, _lifespan)


async def rotate_keys(settings: Settings) -> str:
    """Publish a new key, which will sign in `key_lead_seconds`; returns its name."""
    async with db.pool(settings.database_url, size=1, name="auth rotate") as pool, db.transaction(pool) as conn:
        return await service.rotate_keys(conn, settings.key_lead_seconds, settings.access_token_seconds)


async def _lifespan(app: aio.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[runtime.TASKS]
    async with AsyncExitStack() as stack:
        pool, wake = await stack.enter_async_context(application.opened(app, settings, "auth"))
        await stack.enter_async_context(
            delivery.incoming(tasks, settings, pool, "auth", consumer.TOPICS, consumer.HANDLERS, wake)
        )
        keyring = Keyring(pool, settings.access_token_seconds)
        logins = Logins(pool, keyring, Passwords(settings.hashes_at_once), _limits(settings), wake)
        # Before the door opens: who takes over from another knows what it knew, and the first login finds its user.
        await worker.try_reload(keyring)
        stack.push_async_callback(tasks.start("keyring", partial(worker.keep, keyring)))
        if "worker" in settings.only:
            housekeeper = worker.Housekeeper(pool, logins, settings.admin_password.get_secret_value())
            await housekeeper.try_once()
            stack.push_async_callback(tasks.start("housekeeper", housekeeper.run))
        app[api.KEYRING], app[api.LOGINS] = keyring, logins
        yield


def _limits(settings: Settings) -> Limits:
    return Limits(
        access_seconds=settings.access_token_seconds,
        refresh_seconds=settings.refresh_token_seconds,
        free=settings.free_failures,
        per_account=settings.free_failures_per_account,
        per_address=settings.free_failures_per_address,
    )
