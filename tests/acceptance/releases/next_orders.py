"""The next release of orders writes OrderNoted before each last event of an order, and an OrderCreated with a gift."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orders import domain
from orders.app import create_app
from orders.config import Settings
from orders.domain import Order
from shared import service
from tests.acceptance.releases.contract import OrderCreated, OrderNoted

Change = tuple[Order, list[Any]]


def noted(transition: Callable[..., Change]) -> Callable[..., Change]:
    """The transition with an OrderNoted before its event, in the same transaction."""

    def changed(order: Order, *arguments: Any) -> Change:
        after, events = transition(order, *arguments)
        if not events:
            return after, []
        (last,) = events
        version = last.version + 1
        notes = [OrderNoted(version=last.version, order_id=order.id), last.model_copy(update={"version": version})]
        return replace(after, version=version), notes

    return changed


def with_gift(created: Callable[[Order], Any]) -> Callable[[Order], OrderCreated]:
    return lambda order: OrderCreated(**created(order).model_dump(), gift=f"gift of {order.id}")


if __name__ == "__main__":
    domain.created = with_gift(domain.created)
    domain.confirm, domain.cancel = noted(domain.confirm), noted(domain.cancel)
    service.run(create_app, Settings, "orders")
