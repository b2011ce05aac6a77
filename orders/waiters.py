"""Requests that wait until their order is final (`?wait=`)."""

import asyncio
from collections import defaultdict

from orders import store
from orders.domain import Order
from shared import errors, postgres
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

_POLL_SECONDS = 0.05
_PACE_SECONDS = 0.01
_MAX_WAITING = 10_000
_IDLE_SECONDS = 10.0  # while nobody waits


class Waiters:
    """One statement reads the orders of all waiting requests, every 50 ms or when `wake` is called."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[int, set[asyncio.Future[Order | None]]] = defaultdict(set)
        self._callers = 0
        self._woken = asyncio.Event()
        self._is_over = False

    async def wait(self, order_id: int, seconds: float) -> Order | None:
        """The order when it is final. None after `seconds`, or when the process drains. Raises `Unavailable`."""
        if self._is_over:
            return None
        if self._callers >= _MAX_WAITING:
            raise errors.Unavailable("too many are waiting")
        self._callers += 1
        future: asyncio.Future[Order | None] = asyncio.get_running_loop().create_future()
        self._waiting[order_id].add(future)
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
        """Call it when orders may have become final."""
        self._woken.set()

    def release(self) -> None:
        """End all waits now: the process drains."""
        self._is_over = True
        for future in [f for waiting in self._waiting.values() for f in waiting]:
            if not future.done():
                future.set_result(None)

    async def run_once(self) -> int:
        """Read the orders of all waiting requests. Returns how many of them are final."""
        if not self._waiting:
            return 0
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            final = await store.final(conn, list(self._waiting))
        for order in final:
            for future in self._waiting.get(order.id, ()):
                if not future.done():
                    future.set_result(order)
        return len(final)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Read until `stop` is set. While nobody waits, nothing is read."""

        async def turn() -> float:
            self._woken.clear()
            await self.run_once()
            await asyncio.sleep(_PACE_SECONDS)
            return _POLL_SECONDS if self._waiting else _IDLE_SECONDS

        await repeat("reading of awaited orders", turn, stop, beat, trouble=postgres.ERRORS, woken=self._woken)
