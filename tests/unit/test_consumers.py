"""Each consumer says of every type on its topics that it handles it or that it ignores it."""

import pkgutil
from importlib import import_module
from typing import Any

import pytest

import contracts
from auth import consumer as auth
from contracts.event import Event
from inventory import consumer as inventory
from orders import consumer as orders
from payments import consumer as payments
from users import consumer as users

HANDLED: dict[Any, set[type]] = {module: set(module.HANDLERS) for module in (auth, inventory, orders, users)} | {
    payments: set(payments.handlers(None))
}  # type: ignore[arg-type]  # no handler is called


def all_events() -> set[type[Event]]:
    for module in pkgutil.iter_modules(contracts.__path__, "contracts."):
        import_module(module.name)
    return {event for event in Event.__subclasses__() if event.__module__.startswith("contracts.")}


@pytest.mark.parametrize("consumer", HANDLED, ids=lambda module: module.__name__)
def test_every_type_of_a_topic_is_handled_or_ignored(consumer: Any) -> None:
    of_topics = {event for event in all_events() if event.topic in consumer.TOPICS}
    ignored = set(getattr(consumer, "IGNORES", ()))

    assert HANDLED[consumer] | ignored == of_topics
    assert not HANDLED[consumer] & ignored
