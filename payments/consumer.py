"""Kafka in: one function per event type, over a list, in the transaction of the batch."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel

from contracts.inventory import TOPIC as INVENTORY
from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved
from contracts.orders import TOPIC as ORDERS
from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from payments import service
from payments.domain import Claim
from shared.delivery.handlers import Handler
from shared.postgres import Connection

TOPICS = (INVENTORY, ORDERS)
IGNORES = (InventoryRejected, InventoryReleased, OrderCreated, OrderConfirmed)


class Worker(Protocol):
    """Calls the provider for the payments that the handlers claim. See `payments/worker.py`."""

    def now(self) -> datetime:
        """The time for claims and deadlines."""

    def claim(self, count: int) -> Claim:
        """Create a claim for `count` payments."""

    def stage(self, claim: Claim, order_ids: Sequence[int]) -> None:
        """Note the payments that a transaction claims. The transaction has not committed yet."""


def handlers(worker: Worker) -> dict[type[BaseModel], Handler]:
    """The handlers. The worker gets the payments that they claim after the transaction has committed."""

    async def on_inventory_reserved(conn: Connection, events: list[InventoryReserved]) -> None:
        """Stock is held: charge the orders."""
        claim = worker.claim(len(events))
        worker.stage(claim, await service.intend(conn, events, claim, worker.now()))

    async def on_order_cancelled(conn: Connection, events: list[OrderCancelled]) -> None:
        """The orders are cancelled: refund their money, or never take it."""
        claim = worker.claim(len(events))
        worker.stage(claim, await service.cancel(conn, [e.order_id for e in events], claim, worker.now()))

    return {InventoryReserved: on_inventory_reserved, OrderCancelled: on_order_cancelled}
