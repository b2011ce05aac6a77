"""The way of an order: its steps, what is awaited, and the files that are named."""

from importlib import import_module
from typing import Any

import pytest

from contracts import catalogue, inventory, orders, payments
from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved
from contracts.orders import OrderCancelled
from contracts.payments import PaymentFailed, PaymentRefunded, PaymentSucceeded
from shared.delivery.events import Record
from storefront import events, way
from tests.builders import order_confirmed, order_created, record, with_header
from tests.conftest import ROOT

CREATED = order_created()
RESERVED = InventoryReserved(
    version=1,
    order_id=1,
    user_id="u1",
    sku="burger",
    quantity=2,
    amount_cents=170000,
    currency="EUR",
    expires_at=CREATED.expires_at,
)
REJECTED = InventoryRejected(version=1, order_id=1, sku="burger", quantity=2, reason="out_of_stock")
RELEASED = InventoryReleased(version=2, order_id=1, sku="burger", quantity=2)
PAID = PaymentSucceeded(version=1, order_id=1, amount_cents=170000, currency="EUR", provider_ref="p")
REFUSED = PaymentFailed(version=1, order_id=1, reason="payment_declined")
REFUNDED = PaymentRefunded(version=2, order_id=1, amount_cents=170000, currency="EUR", provider_ref="p")
CONFIRMED = order_confirmed()
CANCELLED = OrderCancelled(version=2, order_id=1, sku="burger", quantity=2, reason="payment_declined")
SOLD_OUT = CANCELLED.model_copy(update={"reason": "out_of_stock"})
BY_CUSTOMER = CANCELLED.model_copy(update={"reason": "cancelled_by_customer"})


def of(*made: Any) -> way.Way:
    return way.of([record(event) for event in made])


def test_every_event_about_orders_has_a_step() -> None:
    topics = {orders.TOPIC, inventory.TOPIC, payments.TOPIC}
    assert set(way.WORK) == {event for event in catalogue.EVENTS if event.topic in topics}
    assert set(events.TOPICS) == topics


@pytest.mark.parametrize("event", way.WORK)
def test_the_file_and_the_function_of_a_step_exist_and_belong_to_its_service(event: type[Any]) -> None:
    work = way.WORK[event]
    assert callable(getattr(import_module(work.module), work.function))
    assert work.file.startswith(f"{work.service}/")
    assert (ROOT / work.file).is_file()


@pytest.mark.parametrize(
    ("made", "awaited"),
    [
        ([], []),
        ([CREATED], ["inventory"]),
        ([CREATED, RESERVED], ["payments"]),
        ([CREATED, RESERVED, PAID], ["orders"]),
        ([CREATED, RESERVED, PAID, CONFIRMED], []),
        ([CREATED, REJECTED], ["orders"]),
        ([CREATED, REJECTED, SOLD_OUT], []),
        ([CREATED, RESERVED, REFUSED], ["orders"]),
        ([CREATED, RESERVED, REFUSED, CANCELLED], ["inventory"]),
        ([CREATED, RESERVED, REFUSED, CANCELLED, RELEASED], []),
        ([CREATED, BY_CUSTOMER], []),
        ([CREATED, RESERVED, BY_CUSTOMER], ["inventory"]),
        ([CREATED, RESERVED, PAID, BY_CUSTOMER], ["inventory", "payments"]),
        ([CREATED, RESERVED, PAID, BY_CUSTOMER, RELEASED, REFUNDED], []),
    ],
)
def test_the_services_that_have_something_to_do_are_awaited(made: list[Any], awaited: list[str]) -> None:
    found = of(*made)
    assert [service for service, _ in found.awaited] == awaited
    assert found.is_over == (bool(made) and not awaited)


@pytest.mark.parametrize(
    "made", [[CREATED, CONFIRMED], [CREATED, PAID, CONFIRMED], [CREATED, CANCELLED], [REJECTED, CANCELLED]]
)
def test_a_way_with_a_gap_is_not_over(made: list[Any]) -> None:
    found = of(*made)
    assert (list(found.awaited), found.is_over) == ([], False)


def test_steps_come_in_the_order_of_time_with_place_and_detail() -> None:
    earlier, later = record(CREATED, offset=7, partition=3), record(REJECTED)
    first, second = way.of([later, earlier]).steps
    assert (first.name, first.after_ms, first.topic, first.partition, first.offset) == (
        *("OrderCreated", 0, "orders.events"),
        *(3, 7),
    )
    assert (first.detail, second.detail, second.work.service) == ("17.00 EUR", "out_of_stock", "inventory")
    assert second.after_ms >= 0
    assert of(RESERVED).steps[0].detail == "2 burger"


def test_an_event_that_was_published_twice_is_one_step() -> None:
    one = record(CREATED)
    assert len(way.of([one, one._replace(offset=one.offset + 1)]).steps) == 1


def bad(**changes: Any) -> Record:
    return record(CREATED)._replace(**changes)


@pytest.mark.parametrize(
    "record_",
    [
        bad(value=None),
        bad(value=b"{"),
        bad(headers=[]),
        bad(key=b"2"),
        with_header(record(CREATED), "ce_time", b"yesterday"),
        with_header(record(CREATED), "ce_type", b"FromTheFuture"),
        with_header(record(CREATED), "ce_id", b"x"),
    ],
)
def test_a_record_that_is_no_event_of_an_order_is_left_out(record_: Record) -> None:
    assert [step.name for step in way.of([record_, record(RESERVED)]).steps] == ["InventoryReserved"]


def test_a_time_without_a_zone_can_be_compared() -> None:
    assert len(way.of([with_header(record(CREATED), "ce_time", b"2026-01-31"), record(RESERVED)]).steps) == 2


def test_money_is_written_for_people() -> None:
    assert way.money(180000, "EUR") == "1,800.00 EUR"
