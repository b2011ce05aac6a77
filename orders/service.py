"""The use cases of orders: place, settle, cancel, and keep the replica of the catalogue."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contracts.orders import CancelReason
from contracts.products import ProductChanged, ProductCreated
from orders import domain, store
from orders.domain import Order, Product, Request, Status
from shared import errors
from shared.delivery import events
from shared.postgres import connections as db
from shared.postgres.connections import Connection, Pool

_ID_BLOCK = 64
_CATALOGUE_SECONDS = 1.0
_CATALOGUE_SIZE = 10_000


class OrderNotFound(errors.NotFound):
    """No order has this id."""

    def __init__(self) -> None:
        super().__init__("not found")


@dataclass(frozen=True, slots=True)
class Placed:
    """The answer to a request: which order it became, now or when it was first made."""

    order_id: int
    replayed: bool


class ProductNotFound(errors.NotFound):
    """The replica of the catalogue has no product with this id, or not yet."""

    def __init__(self, product_id: int) -> None:
        super().__init__(f"there is no product {product_id}")


class Skus:
    """Knows products by their ids, for those who choose by id; a product's sku never changes, so it is remembered."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[int, str] = {}

    async def find(self, product_id: int) -> str:
        """Give the sku of a product. Raises `ProductNotFound`."""
        if product_id not in self._known:
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                sku = await store.sku_of(conn, product_id)
            if sku is None:
                raise ProductNotFound(product_id)
            if len(self._known) >= _CATALOGUE_SIZE:
                self._known.clear()
            self._known[product_id] = sku
        return self._known[product_id]


class Catalogue:
    """Reads the catalogue's replica, and remembers what it read for a second."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Product | None]] = {}

    async def find(self, conn: Connection, skus: set[str]) -> dict[str, Product | None]:
        """Give each sku's product, or None where there is none."""
        now = time.monotonic()
        answer = {sku: self._known[sku][1] for sku in skus if self._known.get(sku, (0.0, None))[0] > now}
        if stale := skus - answer.keys():
            found = await store.products(conn, list(stale))  # meanwhile another worker may make this forget all
            if len(self._known) > _CATALOGUE_SIZE:
                self._known.clear()
            self._known |= {sku: (now + _CATALOGUE_SECONDS, found.get(sku)) for sku in stale}
            answer |= {sku: found.get(sku) for sku in stale}
        return answer


class Door:
    """Places orders for many callers by one statement; safe to repeat, because ids are given before the first try."""

    def __init__(self, deadline_seconds: float) -> None:
        self._deadline = timedelta(seconds=deadline_seconds)
        self._catalogue = Catalogue()
        self._ids: deque[int] = deque()

    async def place(self, conn: Connection, requests: Sequence[Request]) -> list[Placed | Exception]:
        """Store the orders and the facts that they were placed; one answer per request, in order."""
        await self._number(conn, requests)
        products = await self._catalogue.find(conn, {r.sku for r in requests})
        now = datetime.now(UTC)
        ordered = sorted(requests, key=lambda r: (r.user_id, r.idempotency_key or "", r.order_id))
        orders = [domain.place(r.order_id or 0, r, products[r.sku], now, now + self._deadline) for r in ordered]
        token = events.traces.set({str(r.order_id): r.trace for r in requests if r.trace})
        try:
            facts = [events.encode(domain.created(order)) for order in orders]
        finally:
            events.traces.reset(token)
        new = await store.place(conn, orders, [r.idempotency_key for r in ordered], facts)
        rest = [r for r in requests if r.order_id not in new]
        known = await store.find(conn, rest) if rest else []
        return [Placed(r.order_id or 0, False) if r.order_id in new else _answer(r, known) for r in requests]

    async def _number(self, conn: Connection, requests: Sequence[Request]) -> None:
        unnumbered = [r for r in requests if r.order_id is None]
        while len(self._ids) < len(unnumbered):
            self._ids.extend(await store.take_ids(conn, max(_ID_BLOCK, len(unnumbered))))
        for request in unnumbered:
            request.order_id = self._ids.popleft()


def _answer(request: Request, known: list[tuple[Order, str | None]]) -> Placed | Exception:
    """Answer a request whose row was there before: this very one, or an earlier one with its key."""
    for order, key in known:
        if order.id == request.order_id:
            return Placed(order.id, False)
        if key is not None and (order.user_id, key) == (request.user_id, request.idempotency_key):
            if request.same_as(order):
                return Placed(order.id, True)
            return errors.KeyReused("this Idempotency-Key was used with another body")
    return errors.OutcomeUnknown("db error")


async def confirm(conn: Connection, ids: Sequence[int]) -> None:
    """Confirm the orders that are still PENDING. Raises `UnknownIds`."""
    await _finish(conn, ids, domain.confirm)


async def cancel_all(conn: Connection, reasons: dict[int, CancelReason]) -> None:
    """Cancel the orders that are still PENDING, each for its reason. Raises `UnknownIds`."""
    await _finish(conn, list(reasons), lambda order: domain.cancel(order, reasons[order.id]))


class UnknownIds(Exception):
    """Some orders do not exist here; nothing was changed."""

    def __init__(self, ids: set[int]) -> None:
        super().__init__(f"unknown orders: {sorted(ids)[:10]}")
        self.ids = ids


async def _finish(
    conn: Connection, ids: Sequence[int], transition: Callable[[Order], tuple[Order, list[events.Event]]]
) -> None:
    orders = await store.get(conn, ids)
    if missing := set(ids) - orders.keys():
        raise UnknownIds(missing)
    changes = [transition(orders[id_]) for id_ in sorted(orders)]
    changed = [order for order, facts in changes if facts]
    if changed:
        await store.finish(conn, changed, [events.encode(fact) for _, facts in changes for fact in facts])


async def cancel(conn: Connection, order_id: int, may_see: Callable[[str], bool]) -> Order:
    """Cancel one order for who `may_see` its user's orders.

    Raises `OrderNotFound`, or `Conflict` when it is final for another reason.
    """
    await db.lock_keys(conn, [str(order_id)])
    order = await get(conn, order_id)
    if not may_see(order.user_id):
        raise OrderNotFound
    if order.status is Status.PENDING:
        await cancel_all(conn, {order_id: "cancelled_by_customer"})
    elif order.reason != "cancelled_by_customer":
        raise errors.Conflict(f"the order is already {order.status}")
    return await get(conn, order_id)


async def cancel_overdue(conn: Connection, ids: Sequence[int]) -> None:
    """Cancel orders whose deadline has passed, unless they became final meanwhile."""
    await db.lock_keys(conn, [str(id_) for id_ in ids])
    await cancel_all(conn, dict.fromkeys(ids, "deadline_passed"))


async def get(conn: Connection, order_id: int) -> Order:
    """Read one order. Raises `OrderNotFound`."""
    (found,) = await read(conn, [order_id])
    if isinstance(found, OrderNotFound):
        raise found
    return found


async def read(conn: Connection, ids: Sequence[int]) -> list[Order | OrderNotFound]:
    """Read orders for many callers by one statement; one answer per id, in order."""
    found = await store.get(conn, ids)
    return [found.get(id_) or OrderNotFound() for id_ in ids]


async def replicate(conn: Connection, changes: Sequence[ProductCreated | ProductChanged]) -> None:
    """Take over changes of the catalogue."""
    latest = {c.sku: c for c in sorted(changes, key=lambda c: c.version)}
    await store.replicate(
        conn,
        [
            Product(c.product_id, c.sku, c.name, c.price_cents, c.currency, c.active, c.version)
            for _, c in sorted(latest.items())
        ],
    )
