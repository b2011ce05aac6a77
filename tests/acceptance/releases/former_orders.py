"""A former release of orders: orders and their events have no payment reference."""

from dataclasses import replace
from typing import Any

from contracts import orders
from orders import domain
from orders.app import create_app
from orders.config import Settings
from orders.domain import Order
from shared import service


class OrderCreated(orders.OrderCreated, topic=orders.TOPIC, key_field="order_id"):
    def model_dump_json(self, **_: Any) -> str:
        return super().model_dump_json(exclude={"payment_reference"})


if __name__ == "__main__":
    place = domain.place

    def place_without_reference(*arguments: Any) -> Order:
        return replace(place(*arguments), payment_reference=None)

    domain.place, domain.OrderCreated = place_without_reference, OrderCreated
    service.run(create_app, Settings, "orders")
