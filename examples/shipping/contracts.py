"""The events that shipping publishes, and the fields that it reads of the events of others.

Other fields are ignored, so a publisher may add some. A record that lacks a field, or has a value that Postgres cannot
store, is parked before it reaches a handler.
"""

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

ORDERS = "orders.events"
TOPIC = "shipping.events"

Id = Annotated[int, Field(gt=0, lt=2**63)]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Quantity = Annotated[int, Field(gt=0, lt=2**31)]


class OfAnOrder(BaseModel):
    """An event about an order. Its key is the order's id, and the events of a key are delivered in order."""

    model_config = ConfigDict(frozen=True, strict=True)
    key_field: ClassVar[str] = "order_id"

    order_id: Id


class OrderConfirmed(OfAnOrder):
    """An order was paid and is final."""

    sku: Text
    quantity: Quantity


class OrderCreated(OfAnOrder):
    """An order was accepted. Shipping ignores it."""


class OrderCancelled(OfAnOrder):
    """An order ended without a sale. Shipping ignores it."""


class ParcelSent(OfAnOrder):
    """The parcel of an order is on its way."""

    topic: ClassVar[str] = TOPIC

    sku: Text
    quantity: Quantity
