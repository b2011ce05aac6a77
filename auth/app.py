"""Wiring: the one file of the service that knows every other."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

from aiohttp import web

from auth import api, consumer, service, worker
from auth.config import Settings
from auth.endings import Endings
from auth.keyring import Keyring
from auth.passwords import Passwords
from auth.service import Limits, Logins
from shared import postgres
from shared.service import Consumed, consuming, create, opened
from shared.web import audit, database
from shared.web.audit import TRAIL
from shared.web.health import TASKS

DESCRIPTION = "Auth: who may log in, who is logged in, and the keys that prove it."


def create_app(settings: Settings) -> web.Application:
    """Create the application. It opens nothing before it starts."""
    return create(settings, "auth", DESCRIPTION, api.routes, _lifespan)


async def rotate_keys(settings: Settings) -> str:
    """Publish a new key, which signs after `key_lead_seconds`. Returns its name."""
    async with (
        postgres.pool(settings.database, size=1, name="auth rotate") as pool,
        postgres.transaction(pool) as conn,
    ):
        longest = max(settings.access_token_seconds, settings.visitor_seconds)
        name = await service.rotate_keys(conn, settings.key_lead_seconds, longest)
        await audit.add(conn, [audit.act_of("rotate keys", "done", who="the command rotate-keys", whom=name)])
    return name


async def set_admin_password(settings: Settings) -> None:
    """Set the administrator's password now. Their sessions end. Running processes need no restart."""
    async with postgres.pool(settings.database, size=2, name="auth rotate") as pool:
        trail = audit.Trail(pool)
        logins = Logins(pool, Keyring(pool), Passwords(1), _limits(settings), lambda: None, trail)
        await logins.ensure_admin(settings.admin_password.get_secret_value())
        await trail.store()


async def _lifespan(app: web.Application, settings: Settings) -> AsyncIterator[None]:
    tasks = app[TASKS]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(opened(app, settings, "auth"))
        await stack.enter_async_context(consuming(app, settings, "auth", Consumed(consumer.TOPICS, consumer.HANDLERS)))
        keyring, endings = Keyring(pool), Endings(pool, settings.access_token_seconds)
        passwords = Passwords(settings.hashes_at_once)
        logins = Logins(pool, keyring, passwords, _limits(settings), app[database.COMMITTED], app[TRAIL])
        # Before the first request, so that a new process knows the ended sessions, and the first login finds its user.
        for name, memory, seconds in (
            ("keyring", keyring, worker.KEYS_SECONDS),
            ("endings", endings, worker.ENDINGS_SECONDS),
        ):
            await worker.try_reload(memory)
            stack.push_async_callback(tasks.start(name, partial(worker.keep, memory, seconds)))
        tasks.when_draining(endings.close)
        if "worker" in settings.only:
            housekeeper = worker.Housekeeper(pool, logins, settings.admin_password.get_secret_value())
            await housekeeper.try_once()
            stack.push_async_callback(tasks.start("housekeeper", housekeeper.run))
        app[api.KEYRING], app[api.ENDINGS], app[api.LOGINS] = keyring, endings, logins
        yield


def _limits(settings: Settings) -> Limits:
    return Limits(
        access_seconds=settings.access_token_seconds,
        refresh_seconds=settings.refresh_token_seconds,
        free=settings.free_failures,
        per_account=settings.free_failures_per_account,
        per_address=settings.free_failures_per_address,
        visitor_seconds=settings.visitor_seconds,
    )
