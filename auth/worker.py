"""Work by time: reload keys and ended sessions, create the administrator, delete what has expired."""

import asyncio
import time
from random import uniform
from typing import Protocol

import structlog

from auth import store
from auth.service import Logins
from shared import errors, postgres
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

log = structlog.get_logger()

KEYS_SECONDS = 1.0
ENDINGS_SECONDS = 0.5
_TURN_SECONDS = 1.0
_SWEEP_SECONDS = 60.0


class Memory(Protocol):
    """Rows of the database in memory: the keyring, the endings."""

    async def reload(self) -> None: ...


async def keep(memory: Memory, seconds: float, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Reload a memory every so many seconds until `stop` is set."""

    async def turn() -> float:
        await try_reload(memory)
        return seconds * uniform(0.8, 1.2)

    await repeat("reload", turn, stop, beat, trouble=())


async def try_reload(memory: Memory) -> None:
    """Reload a memory. If Postgres does not answer, the memory does not change."""
    try:
        await memory.reload()
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
            return _TURN_SECONDS

        await repeat("housekeeping", turn, stop, beat, trouble=())
