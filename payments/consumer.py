"""What payments does when others speak: one function per event type, over a list, in the batch's transaction."""

from pydantic import BaseModel

from contracts.inventory import TOPIC as INVENTORY
from contracts.inventory import InventoryReserved
from contracts.orders import TOPIC as ORDERS
from contracts.orders import OrderCancelled
from payments import service
from payments.worker import Worker
from shared.consumer import Handler
from shared.db import Connection

TOPICS = (INVENTORY, ORDERS)


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
