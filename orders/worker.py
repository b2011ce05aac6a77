"""Work by time: the sweeper cancels orders that are past their deadline."""

import asyncio
from collections.abc import Callable
from random import uniform

from orders import service, store
from shared import postgres
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

_BATCH = 500


class Sweeper:
    """Cancels orders past their deadline, so that no order stays PENDING if Kafka or another service is down."""

    def __init__(self, pool: Pool, every_seconds: float, committed: Callable[[], None]) -> None:
        self._pool, self._every, self._committed = pool, every_seconds, committed

    async def run_once(self) -> int:
        """Cancel a batch of overdue orders. Returns how many were overdue."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            ids = await store.overdue(conn, _BATCH)
        if ids:
            async with postgres.transaction(self._pool) as conn:
                await service.cancel_overdue(conn, ids)
            self._committed()
        return len(ids)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Sweep until `stop` is set. After a full batch, sweep again without a wait."""

        async def turn() -> float:
            swept = await self.run_once()
            return self._every * uniform(0.8, 1.2) if swept < _BATCH else 0.0

        await repeat("sweep", turn, stop, beat, trouble=postgres.ERRORS)
