"""Kafka in: one function per event type, over a list, in the transaction of the batch."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from contracts.inventory import TOPIC as INVENTORY
from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved
from contracts.payments import TOPIC as PAYMENTS
from contracts.payments import PaymentFailed, PaymentRefunded, PaymentSucceeded
from contracts.products import TOPIC as PRODUCTS
from contracts.products import ProductChanged, ProductCreated
from contracts.users import USERS_TOPIC, UserDeleted
from orders import service
from shared.delivery.handlers import Handler
from shared.errors import UnknownAggregate
from shared.postgres import Connection

TOPICS = (INVENTORY, PAYMENTS, PRODUCTS, USERS_TOPIC)
STATES = (ProductCreated, ProductChanged)
IGNORES = (InventoryReserved, InventoryReleased, PaymentRefunded)


async def on_payment_succeeded(conn: Connection, events: list[PaymentSucceeded]) -> None:
    """The money is taken: confirm the orders."""
    try:
        await service.confirm(conn, [e.order_id for e in events])
    except service.UnknownIds as error:
        raise _unknown(error, events) from error


async def on_refusal(conn: Connection, events: list[InventoryRejected] | list[PaymentFailed]) -> None:
    """Another service cannot do its part: cancel the orders for its reason."""
    try:
        await service.cancel_all(conn, {e.order_id: e.reason for e in events})
    except service.UnknownIds as error:
        raise _unknown(error, events) from error


async def on_product(conn: Connection, events: list[ProductCreated] | list[ProductChanged]) -> None:
    """The catalogue has changed: update the replica."""
    await service.replicate(conn, events)


async def on_user_deleted(conn: Connection, events: list[UserDeleted]) -> None:
    """Users are deleted: delete what they wrote."""
    await service.forget_users(conn, [e.user_id for e in events])


def _unknown(error: service.UnknownIds, events: Sequence[Any]) -> UnknownAggregate:
    return UnknownAggregate([e for e in events if e.order_id in error.ids])


HANDLERS: dict[type[BaseModel], Handler] = {
    PaymentSucceeded: on_payment_succeeded,
    PaymentFailed: on_refusal,
    InventoryRejected: on_refusal,
    ProductCreated: on_product,
    ProductChanged: on_product,
    UserDeleted: on_user_deleted,
}
