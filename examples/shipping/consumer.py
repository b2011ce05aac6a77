"""Kafka in: one function per event type, over a list, in the transaction of the batch."""

from pydantic import BaseModel

from shared.delivery.handlers import Handler
from shared.postgres import Connection

from . import store
from .contracts import ORDERS, OrderCancelled, OrderConfirmed, OrderCreated, ParcelSent

TOPICS = (ORDERS,)
IGNORES = (OrderCreated, OrderCancelled)  # events of a type that is neither ignored nor handled are parked


async def on_order_confirmed(conn: Connection, events: list[OrderConfirmed]) -> None:
    """The orders are paid: send their parcels."""
    await store.send(conn, [ParcelSent(order_id=e.order_id, sku=e.sku, quantity=e.quantity) for e in events])


HANDLERS: dict[type[BaseModel], Handler] = {OrderConfirmed: on_order_confirmed}
