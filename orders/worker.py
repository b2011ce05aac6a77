"""Time in orders: the sweeper ends what is overdue, and waiters are told when their order is final."""

import asyncio
from collections.abc import Callable
from random import uniform

import structlog

from orders import service, store
from orders.domain import Order
from shared import errors
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.backoff import wait

log = structlog.get_logger()

_SWEEP_BATCH = 500
_POLL_SECONDS = 0.05
_POLL_PACE_SECONDS = 0.01
_MAX_WAITING = 10_000
_IDLE_SECONDS = 0.25  # how long stopping may go unnoticed while nobody waits


class Sweeper:
    """Cancels orders past their deadline, so that no order stays PENDING, whatever is down."""

    def __init__(self, pool: Pool, every_seconds: float, committed: Callable[[], None]) -> None:
        self._pool, self._every, self._committed = pool, every_seconds, committed

    async def run_once(self) -> int:
        """Cancel what is overdue; returns how many orders were looked at."""
        async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
            ids = await store.overdue(conn, _SWEEP_BATCH)
        if ids:
            async with db.transaction(self._pool) as conn:
                await service.cancel_overdue(conn, ids)
            self._committed()
        return len(ids)

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Sweep until `stop`; at once again while there is more."""
        while not stop.is_set():
            beat()
            swept = 0
            try:
                swept = await self.run_once()
            except db.ERRORS as error:
                log.warning("sweep failed, trying again", error=repr(error))
            if swept < _SWEEP_BATCH:
                await wait(stop, self._every * uniform(0.8, 1.2))


class Waiters:
    """Tells callers when an order is final; one statement reads all waited ids, every 50 ms or when woken."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[int, set[asyncio.Future[Order | None]]] = {}
        self._callers = 0
        self._woken = asyncio.Event()
        self._over = False

    async def wait(self, order_id: int, seconds: float) -> Order | None:
        """Give the order once it is final; None when the time is over or the process drains. Raises `Unavailable`."""
        if self._over:
            return None
        if self._callers >= _MAX_WAITING:
            raise errors.Unavailable("too many are waiting")
        self._callers += 1
        future: asyncio.Future[Order | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(order_id, set()).add(future)
        self._woken.set()
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._callers -= 1
            waiting = self._waiting[order_id]
            waiting.discard(future)
            if not waiting:
                del self._waiting[order_id]
        return future.result() if future.done() else None

    def wake(self) -> None:
        """Say that orders may have become final."""
        self._woken.set()

    def release(self) -> None:
        """Answer everybody now, with the order as it stands."""
        self._over = True
        for future in [f for waiting in self._waiting.values() for f in waiting]:
            if not future.done():
                future.set_result(None)

    async def run_once(self) -> int:
        """Look once; returns how many orders were found final."""
        if not self._waiting:
            return 0
        async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
            final = await store.final(conn, list(self._waiting))
        for order in final:
            for future in self._waiting.get(order.id, ()):
                if not future.done():
                    future.set_result(order)
        return len(final)

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Look until `stop`; without waiters nothing is read."""
        while not stop.is_set():
            beat()
            self._woken.clear()
            try:
                await self.run_once()
            except db.ERRORS as error:
                log.warning("waited orders could not be read, trying again", error=repr(error))
            await asyncio.sleep(_POLL_PACE_SECONDS)
            await wait(self._woken, _POLL_SECONDS if self._waiting else _IDLE_SECONDS)
