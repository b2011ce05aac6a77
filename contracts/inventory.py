"""What the inventory service says about an order's stock, on `inventory.events`, keyed by the order's id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Cents, Id, Quantity, Text, Time

TOPIC = "inventory.events"

RejectReason = Literal["out_of_stock", "unknown_sku"]


class InventoryReserved(Event, topic=TOPIC, key_field="order_id"):
    """Stock is held for an order; it carries on what payments needs."""

    order_id: Id
    user_id: Text
    sku: Text
    quantity: Quantity
    amount_cents: Cents
    currency: Text
    expires_at: Time


class InventoryRejected(Event, topic=TOPIC, key_field="order_id"):
    """Nothing could be held for an order, and nothing is."""

    order_id: Id
    sku: Text
    quantity: Quantity
    reason: RejectReason


class InventoryReleased(Event, topic=TOPIC, key_field="order_id"):
    """What was held for a cancelled order is available again."""

    order_id: Id
    sku: Text
    quantity: Quantity
