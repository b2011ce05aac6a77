"""The use cases of orders: place, settle, cancel, and keep the replica of the catalogue."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from prometheus_client import Histogram

from contracts.orders import CancelReason
from contracts.products import ProductChanged, ProductCreated
from orders import domain, store
from orders.domain import Order, Product, Request, Status
from shared import errors, postgres, tracing
from shared.delivery import events
from shared.delivery.events import Event
from shared.postgres import Connection

DURATION = Histogram(
    "order_duration_seconds",
    "From the request to the end of the order; a transaction that is repeated counts again",
    ["outcome", "reason"],
    buckets=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 45, 60, 75, 120, 300),
)
for _reason in get_args(CancelReason):
    DURATION.labels("CANCELLED", _reason)  # counters that start at 0: the first order of a reason counts in rates
DURATION.labels("CONFIRMED", "")


class OrderNotFound(errors.NotFound):
    """No order has this id."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The id of the order, and whether an earlier request with the same key had placed it."""

    order_id: int
    replayed: bool


async def place(
    conn: Connection, requests: Sequence[Request], products: Mapping[str, Product | None], deadline: timedelta
) -> list[Placed | Exception]:
    """Store the orders and their events in one statement. Returns one answer per request, in order.

    Every request has its `order_id` already. Safe to repeat with the same requests.
    """
    now = datetime.now(UTC)
    ordered = sorted(requests, key=lambda r: (r.user_id, r.idempotency_key or "", r.order_id))
    orders = [domain.place(r.order_id or 0, r, products[r.sku], now, now + deadline) for r in ordered]
    with tracing.carrying({str(r.order_id): r.trace for r in requests if r.trace}):
        created = [events.encode(domain.created(order)) for order in orders]
    new = await store.place(conn, orders, [r.idempotency_key for r in ordered], created)
    rest = [r for r in requests if r.order_id not in new]
    known = await store.find(conn, rest) if rest else []
    return [Placed(r.order_id or 0, False) if r.order_id in new else _answer(r, known) for r in requests]


def _answer(request: Request, known: list[tuple[Order, str | None]]) -> Placed | Exception:
    """The answer to a request whose row existed before: from an earlier attempt, or from a request with its key."""
    for order, key in known:
        if order.id == request.order_id:
            return Placed(order.id, False)
        if key is not None and (order.user_id, key) == (request.user_id, request.idempotency_key):
            if request.same_as(order):
                return Placed(order.id, True)
            return errors.KeyReused("this Idempotency-Key was used with another body")
    return errors.OutcomeUnknown()


async def confirm(conn: Connection, ids: Sequence[int]) -> None:
    """Confirm the orders that are still PENDING. Raises `UnknownIds`."""
    await _finish(conn, ids, domain.confirm)


async def cancel_all(conn: Connection, reasons: dict[int, CancelReason]) -> None:
    """Cancel the orders that are still PENDING, each for its reason. Raises `UnknownIds`."""
    await _finish(conn, list(reasons), lambda order: domain.cancel(order, reasons[order.id]))


class UnknownIds(Exception):
    """Some orders do not exist here. Nothing was changed."""

    def __init__(self, ids: set[int]) -> None:
        super().__init__(f"unknown orders: {sorted(ids)[:10]}")
        self.ids = ids


async def _finish(
    conn: Connection, ids: Sequence[int], transition: Callable[[Order], tuple[Order, list[Event]]]
) -> None:
    orders = await store.get(conn, ids)
    if missing := set(ids) - orders.keys():
        raise UnknownIds(missing)
    changes = [transition(orders[id_]) for id_ in sorted(orders)]
    changed = [order for order, new in changes if new]
    if changed:
        with tracing.carrying({**tracing.carried(), **_spans(changed)}):
            final = [events.encode(event) for _, new in changes for event in new]
        await store.finish(conn, changed, final)
        _measure(changed)


def _measure(orders: Sequence[Order]) -> None:
    now = datetime.now(UTC)
    for order in orders:
        if order.user_id != domain.CANARY:
            DURATION.labels(order.status, order.reason or "").observe((now - order.created_at).total_seconds())


def _spans(orders: Sequence[Order]) -> dict[str, str]:
    """Export a span for the whole life of each order whose trace is sampled. Returns their traceparents by key."""
    found: dict[str, str] = {}
    for order in orders:
        attributes = {
            tracing.KEY: str(order.id),
            tracing.OUTCOME: order.status,
            tracing.REASON: order.reason or "",
        }
        if span := tracing.start("order", "INTERNAL", order.trace, attributes, since=order.created_at):
            tracing.end_with_work(span)
            found[str(order.id)] = span.traceparent
    return found


async def cancel(conn: Connection, order_id: int, may_see: Callable[[str], bool]) -> Order:
    """Cancel one order if `may_see(user_id)` allows it.

    Raises `OrderNotFound`, or `Conflict` if the order is final for another reason.
    """
    await postgres.lock_keys(conn, [str(order_id)])
    order = await get(conn, order_id)
    if not may_see(order.user_id):
        raise OrderNotFound
    if order.status is Status.PENDING:
        await cancel_all(conn, {order_id: "cancelled_by_customer"})
    elif order.reason != "cancelled_by_customer":
        raise errors.Conflict(f"the order is already {order.status}")
    return await get(conn, order_id)


async def cancel_overdue(conn: Connection, ids: Sequence[int]) -> None:
    """The deadline of these orders has passed: cancel those that are still PENDING."""
    await postgres.lock_keys(conn, [str(id_) for id_ in ids])
    await cancel_all(conn, dict.fromkeys(ids, "deadline_passed"))


async def get(conn: Connection, order_id: int) -> Order:
    """Read one order. Raises `OrderNotFound`."""
    (found,) = await read(conn, [order_id])
    if isinstance(found, OrderNotFound):
        raise found
    return found


async def read(conn: Connection, ids: Sequence[int]) -> list[Order | OrderNotFound]:
    """Read orders for many callers in one statement. Returns one answer per id, in order."""
    found = await store.get(conn, ids)
    return [found.get(id_) or OrderNotFound() for id_ in ids]


async def forget_users(conn: Connection, user_ids: Sequence[str]) -> None:
    """Delete what deleted users wrote in their orders. The orders stay, with the ids of their users."""
    await store.clear_notes(conn, user_ids)


async def replicate(conn: Connection, changes: Sequence[ProductCreated | ProductChanged]) -> None:
    """Apply changes of the catalogue to the replica."""
    latest = {c.sku: c for c in sorted(changes, key=lambda c: c.version)}
    await store.replicate(
        conn,
        [
            Product(c.product_id, c.sku, c.name, c.price_cents, c.currency, c.active, c.version)
            for _, c in sorted(latest.items())
        ],
    )
