"""The next release of inventory handles OrderNoted, and reads the gift of an OrderCreated if there is one."""

from contracts import orders
from inventory import consumer
from inventory.app import create_app
from inventory.config import Settings
from shared import service
from shared.postgres import Connection
from tests.acceptance.releases.contract import OrderCreated, OrderNoted, note, on_order_noted


async def on_order_created(conn: Connection, events: list[OrderCreated]) -> None:
    await consumer.on_order_created(conn, list(events))
    await note(conn, events)


if __name__ == "__main__":
    del consumer.HANDLERS[orders.OrderCreated]
    consumer.HANDLERS |= {OrderCreated: on_order_created, OrderNoted: on_order_noted}
    service.run(create_app, Settings, "inventory")
