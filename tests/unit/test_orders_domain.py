"""The rules of an order: it is PENDING, then CONFIRMED or CANCELLED, and then never changes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from contracts.orders import CancelReason, OrderCancelled, OrderConfirmed
from orders import domain
from orders.domain import Order, Product, Request, Status

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BURGER = Product(1, "burger", "Burger", 850, "EUR", active=True, version=3)
REASONS = get_args(CancelReason)


def placed(request: Request | None = None, product: Product | None = BURGER) -> Order:
    return domain.place(7, request or Request("u1", "burger", 2, "x"), product, NOW, NOW + timedelta(minutes=1))


def final(status: Status) -> Order:
    return replace(placed(), status=status, version=2, reason="out_of_stock" if status is Status.CANCELLED else None)


def test_a_placed_order_is_pending_at_version_1_and_has_price_and_product() -> None:
    order = placed()
    assert (order.status, order.version, order.reason) == (Status.PENDING, 1, None)
    assert (order.amount_cents, order.currency) == (1700, "EUR")
    assert order.product == {
        "product_id": 1,
        "sku": "burger",
        "name": "Burger",
        "price_cents": 850,
        "currency": "EUR",
        "version": 3,
    }
    assert (order.created_at, order.expires_at) == (NOW, NOW + timedelta(minutes=1))


@pytest.mark.parametrize("product", [None, replace(BURGER, active=False)], ids=["unknown", "withdrawn"])
def test_an_unknown_or_withdrawn_product_has_no_amount_and_a_bare_snapshot(product: Product | None) -> None:
    order = placed(product=product)
    assert (order.amount_cents, order.product, order.currency) == (None, {"sku": "burger"}, "EUR")
    assert domain.created(order).amount_cents is None


@pytest.mark.parametrize(
    ("price", "quantity", "amount"),
    [(0, 1, 0), (1, 1, 1), (850, 10_000, 8_500_000), (10**12, 10_000, 10**16)],
)
def test_the_amount_is_price_times_quantity_and_always_fits_64_bits(price: int, quantity: int, amount: int) -> None:
    order = placed(Request("u1", "burger", quantity), replace(BURGER, price_cents=price))
    assert order.amount_cents == amount < 2**63
    assert domain.created(order).amount_cents == amount


def test_an_order_has_the_currency_of_its_product() -> None:
    assert placed(product=replace(BURGER, currency="USD")).currency == "USD"


def test_order_created_has_all_fields_that_other_services_need() -> None:
    order = placed()
    event = domain.created(order)
    assert event.model_dump() == {
        "version": 1,
        "order_id": 7,
        "user_id": "u1",
        "sku": "burger",
        "quantity": 2,
        "note": "x",
        "product": order.product,
        "amount_cents": 1700,
        "currency": "EUR",
        "expires_at": NOW + timedelta(minutes=1),
        "payment_reference": order.payment_reference,
    }
    assert order.payment_reference is not None


def test_confirming_a_pending_order_publishes_order_confirmed() -> None:
    before = placed()
    after, events = domain.confirm(before)
    assert after == replace(before, status=Status.CONFIRMED, version=2)
    assert events == [OrderConfirmed(version=2, order_id=7, sku="burger", quantity=2)]


@pytest.mark.parametrize("reason", REASONS)
def test_cancelling_a_pending_order_publishes_order_cancelled_with_the_reason(reason: Any) -> None:
    before = placed()
    after, events = domain.cancel(before, reason)
    assert after == replace(before, status=Status.CANCELLED, version=2, reason=reason)
    assert events == [OrderCancelled(version=2, order_id=7, sku="burger", quantity=2, reason=reason)]


@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.CANCELLED])
def test_a_final_order_never_changes(status: Status) -> None:
    order = final(status)
    assert domain.confirm(order) == (order, [])
    for reason in REASONS:
        assert domain.cancel(order, reason) == (order, [])


def test_there_are_three_statuses() -> None:
    assert [str(status) for status in Status] == ["PENDING", "CONFIRMED", "CANCELLED"]


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"idempotency_key": "k", "trace": "t", "order_id": 99}, True),
        ({"sku": "pizza"}, False),
        ({"quantity": 3}, False),
        ({"note": ""}, False),
    ],
)
def test_a_request_is_the_same_if_it_orders_the_same(changes: dict[str, Any], same: bool) -> None:
    assert replace(Request("u1", "burger", 2, "x"), **changes).same_as(placed()) is same
