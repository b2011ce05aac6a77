"""Placement: many concurrent requests become orders by one statement and one COMMIT (group commit).

What must stay true: an order's id is fixed before the first attempt, so a batch that is written again after a lost
COMMIT cannot create a second order.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import timedelta

from orders import service, store
from orders.catalogue import Catalogue
from orders.domain import Request
from orders.service import Placed
from shared import errors, tracing
from shared.postgres import Connection, GroupCommit
from shared.process.loop import Beat

_ID_BLOCK = 64


class Placement:
    """Places orders for many callers, while `run` runs. An order may stay PENDING for `deadline_seconds`."""

    def __init__(
        self,
        database_url: str,
        deadline_seconds: float,
        committed: Callable[[], None] = lambda: None,
        *,
        workers: int = 2,
        max_batch: int = 256,
    ) -> None:
        self._deadline = timedelta(seconds=deadline_seconds)
        self._catalogue = Catalogue()
        self._ids: deque[int] = deque()
        self._under_way: Counter[tuple[str, str]] = Counter()
        self._group = GroupCommit[Request, Placed](
            database_url, self.write, name="orders", workers=workers, max_batch=max_batch, committed=committed
        )

    async def place(self, request: Request, seconds: float | None = None) -> Placed:
        """Place one order within `seconds`.

        Raises `KeyReused`, `Refused`, `OutcomeUnknown`, or `Conflict` if the time ends while an earlier request with
        the same key is still under way in this process.
        """
        if request.idempotency_key is None:
            return await self._group.submit(request, seconds)
        key = (request.user_id, request.idempotency_key)
        is_repeated = self._under_way[key] > 0
        self._under_way[key] += 1
        try:
            return await self._group.submit(request, seconds)
        except errors.OutcomeUnknown:
            if is_repeated:
                raise errors.Conflict("the first request with this Idempotency-Key is still under way") from None
            raise
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def waited_seconds(self) -> float:
        """How long the oldest request has waited to be written."""
        return self._group.waited_seconds()

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Write batches until `stop` is set, then the requests that still wait."""
        await self._group.run(stop, beat)

    async def write(self, conn: Connection, requests: Sequence[Request]) -> list[Placed | Exception]:
        """Place a batch, in one statement. Returns one answer per request, in order. Safe to repeat."""
        span = tracing.linked("write orders", "INTERNAL", [r.trace for r in requests], {tracing.ROWS: len(requests)})
        await self._number(conn, requests)
        products = await self._catalogue.find(conn, {r.sku for r in requests})
        placed = await service.place(conn, requests, products, self._deadline)
        if span:
            span.end()
        return placed

    async def _number(self, conn: Connection, requests: Sequence[Request]) -> None:
        """Set the order id of each request, from a block of the sequence. A request that has an id keeps it."""
        unnumbered = [r for r in requests if r.order_id is None]
        while len(self._ids) < len(unnumbered):
            self._ids.extend(await store.take_ids(conn, max(_ID_BLOCK, len(unnumbered))))
        for request in unnumbered:
            request.order_id = self._ids.popleft()
