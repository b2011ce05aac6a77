"""Places an order of the shop's own again and again, and measures whether it ends: a check that works at night too.

The order has a sku that no catalogue has, so inventory rejects it and orders cancels it. It goes through both outboxes,
Kafka and both consumers, and takes no stock and no money.
What must stay true: no canary order before the first order of a customer. The figures of orders leave canaries out.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from random import uniform

import structlog
from prometheus_client import Counter, Histogram

from orders import domain, service, store
from shared import postgres
from shared.postgres import Pool
from shared.process.backoff import wait
from shared.process.loop import Beat, repeat

log = structlog.get_logger()

ORDERS = Counter("canary_orders_total", "Canary orders: rejected by inventory as they must be, or failed", ["outcome"])
DURATION = Histogram(
    "canary_order_duration_seconds",
    "From placing a canary order to its end",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 15),
)

LIMIT_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_OPEN_UNTIL = timedelta(seconds=60)
_LOOK_FOR_CUSTOMERS_SECONDS = 10.0


class Canary:
    """Places an order every `every_seconds`, once a customer has ordered. `committed` wakes the relay."""

    def __init__(self, pool: Pool, every_seconds: float, committed: Callable[[], None]) -> None:
        self._pool, self._every, self._committed = pool, every_seconds, committed
        self._has_customers = False
        for outcome in ("rejected", "failed"):
            ORDERS.labels(outcome)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Place canaries until `stop` is set."""

        async def turn() -> float:
            if not self._has_customers and not await self._look_for_customers():
                return min(self._every, _LOOK_FOR_CUSTOMERS_SECONDS)
            await self.run_once(stop, beat)
            return self._every * uniform(0.9, 1.1)

        await repeat("canary", turn, stop, beat, trouble=postgres.ERRORS)

    async def run_once(self, stop: asyncio.Event, beat: Beat = lambda: None) -> bool | None:
        """Place one canary. Returns whether it ended as it must, or None if the process stops meanwhile."""
        started = time.monotonic()
        try:
            order_id = await self._place()
            ended = await self._ends(order_id, started + LIMIT_SECONDS, stop, beat)
        except postgres.ERRORS:
            ORDERS.labels("failed").inc()
            raise
        if ended:
            DURATION.observe(time.monotonic() - started)
        elif stop.is_set():
            return None
        else:
            log.error("a canary order did not end as it must", order_id=order_id, seconds=LIMIT_SECONDS)
        ORDERS.labels("rejected" if ended else "failed").inc()
        return ended

    async def _look_for_customers(self) -> bool:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            self._has_customers = await store.has_orders(conn)
        return self._has_customers

    async def _place(self) -> int:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            (order_id,) = await store.take_ids(conn, 1)
            request = domain.Request(domain.CANARY, domain.CANARY, 1, order_id=order_id)
            await service.place(conn, [request], {domain.CANARY: None}, _OPEN_UNTIL)
        self._committed()
        return order_id

    async def _ends(self, order_id: int, until: float, stop: asyncio.Event, beat: Beat) -> bool:
        while time.monotonic() < until and not await wait(stop, _LOOK_SECONDS):
            beat()
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                order = await service.get(conn, order_id)
            if order.status is not domain.Status.PENDING:
                return order.reason == "unknown_sku"
        return False
