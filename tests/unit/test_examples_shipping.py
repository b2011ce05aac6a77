"""Shipping has models of its own for the events that it reads. They must fit what the shop publishes."""

from contracts import catalogue
from examples.shipping import consumer, contracts
from shared.delivery import events
from tests.builders import order_confirmed, record


def test_shipping_declares_every_type_of_its_topic_once() -> None:
    published = [event.__name__ for event in catalogue.EVENTS if event.topic in consumer.TOPICS]
    declared = [model.__name__ for model in (*consumer.HANDLERS, *consumer.IGNORES)]

    assert sorted(declared) == sorted(published)


def test_shipping_reads_what_orders_publishes() -> None:
    received = events.decode(record(order_confirmed(7)), contracts.OrderConfirmed)

    assert received.event == contracts.OrderConfirmed(order_id=7, sku="burger", quantity=2)
