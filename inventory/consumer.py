"""What inventory does when others speak: one function per event type, over a list, in the batch's transaction.

Several of them may run in one transaction, and each locks stock in the order of skus, but not all of them together:
two instances would lock the same rows in opposite orders, and Postgres needs a second to notice. So transactions take
turns: each locks `service.TURN` with its keys. Measured with two instances (medians of 7 runs): with 5 skus it costs
nothing, since they wait for the same rows anyway; with 20,000 it is 16.8 k events a second, against 5.9 k with
deadlocks and 19.7 k if the skus of the whole batch were locked beforehand.
"""

from pydantic import BaseModel

from contracts.orders import TOPIC as ORDERS
from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.products import TOPIC as PRODUCTS
from contracts.products import ProductChanged, ProductCreated
from inventory import service
from shared.delivery.consumer import Handler
from shared.postgres.connections import Connection

TOPICS = (ORDERS, PRODUCTS)


async def on_order_created(conn: Connection, events: list[OrderCreated]) -> None:
    """Somebody wants something: it is held for them, or refused."""
    await service.reserve(conn, events)


async def on_order_confirmed(conn: Connection, events: list[OrderConfirmed]) -> None:
    """It was paid: the hold becomes a sale."""
    await service.confirm(conn, events)


async def on_order_cancelled(conn: Connection, events: list[OrderCancelled]) -> None:
    """It will not be sold: the hold is released."""
    await service.cancel(conn, events)


async def on_product(conn: Connection, events: list[ProductCreated] | list[ProductChanged]) -> None:
    """The catalogue changed: what is new in it has stock, of 0."""
    await service.make_room(conn, events)


HANDLERS: dict[type[BaseModel], Handler] = {
    OrderCreated: on_order_created,
    OrderConfirmed: on_order_confirmed,
    OrderCancelled: on_order_cancelled,
    ProductCreated: on_product,
    ProductChanged: on_product,
}
