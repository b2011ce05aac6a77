"""What the next releases of orders, inventory and payments share: a new event type, and a new optional field."""

from collections.abc import Sequence
from typing import Any

from contracts import orders
from contracts.event import Event
from contracts.fields import Id, Text
from shared.postgres import Connection

TABLE = "create table if not exists effects_of_next_release (type text, order_id bigint, gift text)"
"""The next releases of inventory and payments write a row for each event that they handle. There is no unique index."""

_INSERT = "insert into effects_of_next_release select $1, unnest($2::bigint[]), unnest($3::text[])"


class OrderNoted(Event, topic=orders.TOPIC, key_field="order_id"):
    """An event of each order, between OrderCreated and its last event."""

    order_id: Id


class OrderCreated(orders.OrderCreated, topic=orders.TOPIC, key_field="order_id"):
    gift: Text | None = None


async def on_order_noted(conn: Connection, events: list[OrderNoted]) -> None:
    await note(conn, events)


async def note(conn: Connection, events: Sequence[Any]) -> None:
    gifts = [getattr(event, "gift", None) for event in events]
    await conn.execute(_INSERT, type(events[0]).__name__, [event.order_id for event in events], gifts)
