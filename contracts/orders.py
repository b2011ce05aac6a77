"""The events of the orders service about an order, on `orders.events`. The key is the order id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Cents, Currency, Deadline, OrderId, Quantity, Sku, Snapshot, Text, UserId

TOPIC = "orders.events"

CancelReason = Literal["unknown_sku", "out_of_stock", "payment_declined", "deadline_passed", "cancelled_by_customer"]


class OrderCreated(Event, topic=TOPIC, key_field="order_id"):
    """An order was accepted and is PENDING. The event carries all that other services need, so they never ask."""

    order_id: OrderId
    user_id: UserId
    sku: Sku
    quantity: Quantity
    note: Text
    """A text for the kitchen."""
    product: Snapshot
    amount_cents: Cents | None
    """The price of the whole order in cents, or null if the sku is unknown."""
    currency: Currency
    expires_at: Deadline
    payment_reference: Text | None = None
    """The provider's idempotency key. It is random. Events of earlier releases have none; then it is `order:{id}`."""


class OrderConfirmed(Event, topic=TOPIC, key_field="order_id"):
    """An order was paid and is final."""

    order_id: OrderId
    sku: Sku
    quantity: Quantity


class OrderCancelled(Event, topic=TOPIC, key_field="order_id"):
    """An order ended without a sale and is final. Services release its stock and refund its money."""

    order_id: OrderId
    sku: Sku
    quantity: Quantity
    reason: CancelReason
    """Why the order ended without a sale."""
