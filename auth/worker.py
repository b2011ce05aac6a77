"""Time in auth: keys and ended sessions are read again every second, the administrator made, and what is over swept."""

import asyncio
import time
from random import uniform

import structlog

from auth import store
from auth.service import Keyring, Logins
from shared import errors
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.backoff import wait
from shared.process.run import Beat

log = structlog.get_logger()

_RELOAD_SECONDS = 1.0
_SWEEP_SECONDS = 60.0


async def keep(keyring: Keyring, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Keep the keyring as the database has it, until `stop`."""
    while not stop.is_set():
        beat()
        await try_reload(keyring)
        await wait(stop, _RELOAD_SECONDS * uniform(0.8, 1.2))


async def try_reload(keyring: Keyring) -> None:
    """Have the keyring as the database has it; without an answer, what is known stays in use."""
    try:
        await keyring.reload()
    except db.ERRORS as error:
        log.warning("keys and sessions could not be read, trying again", error=repr(error))


class Housekeeper:
    """Sees once to it that there is an administrator, and every minute that nothing piles up."""

    def __init__(self, pool: Pool, logins: Logins, admin_password: str) -> None:
        self._pool, self._logins, self._admin_password = pool, logins, admin_password
        self._admin_is_there = False
        self._sweep_at = 0.0

    async def run_once(self) -> None:
        """Do what is due."""
        if not self._admin_is_there:
            await self._logins.ensure_admin(self._admin_password)
            self._admin_is_there = True
        if time.monotonic() >= self._sweep_at:
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                await store.sweep(conn)
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS * uniform(0.8, 1.2)

    async def try_once(self) -> None:
        """Do what is due; what cannot be done is due again."""
        try:
            await self.run_once()
        except (*db.ERRORS, errors.Conflict) as error:  # another process has just made the administrator
            log.warning("housekeeping failed, trying again", error=repr(error))

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Work until `stop`."""
        while not stop.is_set():
            beat()
            await self.try_once()
            await wait(stop, _RELOAD_SECONDS)
