"""What the orders service says about an order, on `orders.events`, keyed by the order's id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Cents, Id, Quantity, Snapshot, Text, Time

TOPIC = "orders.events"

CancelReason = Literal["unknown_sku", "out_of_stock", "payment_declined", "deadline_passed", "cancelled_by_customer"]


class OrderCreated(Event, topic=TOPIC, key_field="order_id"):
    """An order was accepted and is PENDING; it carries all that the other services need, so that nobody asks back."""

    order_id: Id
    user_id: Text
    sku: Text
    quantity: Quantity
    note: Text
    product: Snapshot
    amount_cents: Cents | None
    currency: Text
    expires_at: Time


class OrderConfirmed(Event, topic=TOPIC, key_field="order_id"):
    """An order was paid and is final."""

    order_id: Id
    sku: Text
    quantity: Quantity


class OrderCancelled(Event, topic=TOPIC, key_field="order_id"):
    """An order ended without a sale and is final; whoever holds something for it gives it back."""

    order_id: Id
    sku: Text
    quantity: Quantity
    reason: CancelReason
