"""An order and its transitions: PENDING, then either CONFIRMED or CANCELLED, which are final."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from secrets import token_hex
from typing import Any

from contracts.orders import CancelReason, OrderCancelled, OrderConfirmed, OrderCreated
from shared import tracing
from shared.delivery.events import Event

CANARY = "(canary)"
"""The user and the sku of the shop's own orders, see `canary.py`. No product can have this sku."""


class Status(StrEnum):
    """The last two are final."""

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the catalogue, as this service knows it."""

    product_id: int
    sku: str
    name: str
    price_cents: int
    currency: str
    active: bool
    version: int

    def snapshot(self) -> dict[str, Any]:
        """The part of the product that an order stores. It does not change with the catalogue."""
        return {
            "product_id": self.product_id,
            "sku": self.sku,
            "name": self.name,
            "price_cents": self.price_cents,
            "currency": self.currency,
            "version": self.version,
        }


@dataclass(slots=True)
class Request:
    """A customer's request. Its `order_id` is set once, and a repeated write uses the same id."""

    user_id: str
    sku: str
    quantity: int
    note: str = ""
    idempotency_key: str | None = None
    trace: str | None = None
    order_id: int | None = field(default=None, compare=False)

    def same_as(self, order: "Order") -> bool:
        """True if the order has what this request asks for."""
        return (self.sku, self.quantity, self.note) == (order.sku, order.quantity, order.note)


@dataclass(frozen=True, slots=True)
class Order:
    """The state of an order."""

    id: int
    user_id: str
    note: str
    status: Status
    sku: str
    quantity: int
    product: dict[str, Any]
    created_at: datetime
    amount_cents: int | None
    currency: str
    reason: CancelReason | None
    version: int
    expires_at: datetime
    payment_reference: str | None
    """The provider's idempotency key. Orders of earlier releases have none."""
    trace: str | None = None
    """The traceparent of the request, if its trace is sampled."""


def place(order_id: int, request: Request, product: Product | None, now: datetime, expires_at: datetime) -> Order:
    """Create a PENDING order.

    Without a product, or with an inactive one, the order has no amount, and inventory rejects it. Its payment reference
    is random. An id is not enough: after a restore, a sequence returns old ids again, and the provider would answer
    with the charge of another order.
    """
    sold = product if product and product.active else None
    return Order(
        id=order_id,
        user_id=request.user_id,
        note=request.note,
        status=Status.PENDING,
        sku=request.sku,
        quantity=request.quantity,
        product=sold.snapshot() if sold else {"sku": request.sku},
        created_at=now,
        amount_cents=sold.price_cents * request.quantity if sold else None,
        currency=sold.currency if sold else "EUR",
        reason=None,
        version=1,
        expires_at=expires_at,
        payment_reference=token_hex(16),
        trace=request.trace if tracing.is_sampled(request.trace) else None,
    )


def created(order: Order) -> OrderCreated:
    """The event of a new order, with everything that other services need."""
    return OrderCreated(
        version=order.version,
        order_id=order.id,
        user_id=order.user_id,
        sku=order.sku,
        quantity=order.quantity,
        note=order.note,
        product=order.product,
        amount_cents=order.amount_cents,
        currency=order.currency,
        expires_at=order.expires_at,
        payment_reference=order.payment_reference,
    )


def confirm(order: Order) -> tuple[Order, list[Event]]:
    """Confirm a PENDING order. A final order does not change: OrderCancelled makes payments refund a cancelled one."""
    match order.status:
        case Status.PENDING:
            after = replace(order, status=Status.CONFIRMED, version=order.version + 1)
            event = OrderConfirmed(version=after.version, order_id=order.id, sku=order.sku, quantity=order.quantity)
            return after, [event]
        case Status.CONFIRMED | Status.CANCELLED:
            return order, []


def cancel(order: Order, reason: CancelReason) -> tuple[Order, list[Event]]:
    """Cancel a PENDING order. A final order does not change."""
    match order.status:
        case Status.PENDING:
            after = replace(order, status=Status.CANCELLED, reason=reason, version=order.version + 1)
            event = OrderCancelled(
                version=after.version, order_id=order.id, sku=order.sku, quantity=order.quantity, reason=reason
            )
            return after, [event]
        case Status.CONFIRMED | Status.CANCELLED:
            return order, []
