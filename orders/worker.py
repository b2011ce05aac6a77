"""Work by time: the sweeper cancels orders that are past their deadline, and measures the oldest open order."""

import asyncio
import time
from collections.abc import Callable
from random import uniform

from prometheus_client import Gauge

from orders import service, store
from shared import metrics, postgres, tracing
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

OLDEST = Gauge("orders_oldest_open_seconds", "Age of the oldest PENDING order")

_BATCH = 500
_MEASURE_SECONDS = 10.0


class Sweeper:
    """Cancels orders past their deadline, so that no order stays PENDING if Kafka or another service is down."""

    def __init__(self, pool: Pool, every_seconds: float, committed: Callable[[], None]) -> None:
        self._pool, self._every, self._committed = pool, every_seconds, committed
        self._measure_at = 0.0

    async def run_once(self) -> int:
        """Cancel a batch of overdue orders. Returns how many were overdue."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            ids = await store.overdue(conn, _BATCH)
            if time.monotonic() >= self._measure_at:
                self._measure_at = time.monotonic() + _MEASURE_SECONDS
                metrics.set_age(OLDEST, await store.oldest_open(conn))
        if ids:
            with tracing.carrying({}):
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
