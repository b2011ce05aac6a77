"""The events of the inventory service about an order's stock, on `inventory.events`. The key is the order id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Amount, Currency, Deadline, OrderId, Quantity, Sku, Text, UserId

TOPIC = "inventory.events"

RejectReason = Literal["out_of_stock", "unknown_sku"]


class InventoryReserved(Event, topic=TOPIC, key_field="order_id"):
    """Stock is held for an order. The event carries the data that payments needs."""

    order_id: OrderId
    user_id: UserId
    sku: Sku
    quantity: Quantity
    amount_cents: Amount
    currency: Currency
    expires_at: Deadline
    payment_reference: Text | None = None
    """The provider's idempotency key. It is random. Events of earlier releases have none; then it is `order:{id}`."""


class InventoryRejected(Event, topic=TOPIC, key_field="order_id"):
    """No stock could be held for an order, and none is held."""

    order_id: OrderId
    sku: Sku
    quantity: Quantity
    reason: RejectReason
    """Why no stock is held."""


class InventoryReleased(Event, topic=TOPIC, key_field="order_id"):
    """The stock that was held for a cancelled order is available again."""

    order_id: OrderId
    sku: Sku
    quantity: Quantity
