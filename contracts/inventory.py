"""What the inventory service says about an order's stock, on `inventory.events`, keyed by the order's id."""

from typing import ClassVar, Literal

from pydantic import BaseModel

from contracts.fields import EVENT, Cents, Id, Quantity, Text, Time, Version

TOPIC = "inventory.events"

RejectReason = Literal["out_of_stock", "unknown_sku"]


class InventoryReserved(BaseModel):
    """Stock is held for an order; it carries on what payments needs."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    user_id: Text
    sku: Text
    quantity: Quantity
    amount_cents: Cents
    currency: Text
    expires_at: Time


class InventoryRejected(BaseModel):
    """Nothing could be held for an order, and nothing is."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    sku: Text
    quantity: Quantity
    reason: RejectReason


class InventoryReleased(BaseModel):
    """What was held for a cancelled order is available again."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    sku: Text
    quantity: Quantity
