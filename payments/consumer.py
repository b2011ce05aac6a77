"""What payments does when others speak: one function per event type, over a list, in the batch's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel

from contracts.inventory import TOPIC as INVENTORY
from contracts.inventory import InventoryReserved
from contracts.orders import TOPIC as ORDERS
from contracts.orders import OrderCancelled
from payments import service
from payments.domain import Claim
from shared.delivery.consumer import Handler
from shared.postgres.connections import Connection

TOPICS = (INVENTORY, ORDERS)


class Worker(Protocol):
    """Who calls the provider for what the handlers claim."""

    def now(self) -> datetime:
        """Tell the time by which claims and deadlines are judged."""

    def claim(self, count: int) -> Claim:
        """Make a claim for so many payments."""

    def stage(self, claim: Claim, order_ids: Sequence[int]) -> None:
        """Remember what is claimed by a transaction that has yet to commit."""


def handlers(worker: Worker) -> dict[type[BaseModel], Handler]:
    """Make the handlers; what they claim is the worker's once the transaction has committed."""

    async def on_inventory_reserved(conn: Connection, events: list[InventoryReserved]) -> None:
        """Stock is held: the order is to be charged."""
        claim = worker.claim(len(events))
        worker.stage(claim, await service.intend(conn, events, claim, worker.now()))

    async def on_order_cancelled(conn: Connection, events: list[OrderCancelled]) -> None:
        """The order is off: its money goes back, or is never taken."""
        claim = worker.claim(len(events))
        worker.stage(claim, await service.cancel(conn, [e.order_id for e in events], claim, worker.now()))

    return {InventoryReserved: on_inventory_reserved, OrderCancelled: on_order_cancelled}
