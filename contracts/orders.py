"""What the orders service says about an order, on `orders.events`, keyed by the order's id."""

from typing import ClassVar, Literal

from pydantic import BaseModel

from contracts.fields import EVENT, Cents, Id, Quantity, Snapshot, Text, Time, Version

TOPIC = "orders.events"

CancelReason = Literal["unknown_sku", "out_of_stock", "payment_declined", "deadline_passed", "cancelled_by_customer"]


class OrderCreated(BaseModel):
    """An order was accepted and is PENDING; it carries all that the other services need, so that nobody asks back."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    user_id: Text
    sku: Text
    quantity: Quantity
    note: Text
    product: Snapshot
    amount_cents: Cents | None
    currency: Text
    expires_at: Time


class OrderConfirmed(BaseModel):
    """An order was paid and is final."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    sku: Text
    quantity: Quantity


class OrderCancelled(BaseModel):
    """An order ended without a sale and is final; whoever holds something for it gives it back."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    sku: Text
    quantity: Quantity
    reason: CancelReason
