"""Work by time: reload the keyring every second, create the administrator, delete what has expired."""

import asyncio
import time
from random import uniform

import structlog

from auth import store
from auth.keyring import Keyring
from auth.service import Logins
from shared import errors, postgres
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

log = structlog.get_logger()

_RELOAD_SECONDS = 1.0
_SWEEP_SECONDS = 60.0


async def keep(keyring: Keyring, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Reload the keyring every second until `stop` is set."""

    async def turn() -> float:
        await try_reload(keyring)
        return _RELOAD_SECONDS * uniform(0.8, 1.2)

    await repeat("reload of keys", turn, stop, beat, trouble=())


async def try_reload(keyring: Keyring) -> None:
    """Reload the keyring. If Postgres does not answer, the keyring does not change."""
    try:
        await keyring.reload()
    except postgres.ERRORS as error:
        log.warning("keys and sessions could not be read, trying again", error=repr(error))


class Housekeeper:
    """Creates the administrator once, and deletes expired rows every minute."""

    def __init__(self, pool: Pool, logins: Logins, admin_password: str) -> None:
        self._pool, self._logins, self._admin_password = pool, logins, admin_password
        self._admin_is_there = False
        self._sweep_at = 0.0

    async def run_once(self) -> None:
        """Do the work that is due."""
        if not self._admin_is_there:
            await self._logins.ensure_admin(self._admin_password)
            self._admin_is_there = True
        if time.monotonic() >= self._sweep_at:
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                await store.sweep(conn)
            self._sweep_at = time.monotonic() + _SWEEP_SECONDS * uniform(0.8, 1.2)

    async def try_once(self) -> None:
        """Do the work that is due. Work that failed stays due."""
        try:
            await self.run_once()
        except (
            *postgres.ERRORS,
            errors.Conflict,
        ) as error:  # Conflict: another process has just created the administrator
            log.warning("housekeeping failed, trying again", error=repr(error))

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Work until `stop` is set."""

        async def turn() -> float:
            await self.try_once()
            return _RELOAD_SECONDS

        await repeat("housekeeping", turn, stop, beat, trouble=())
