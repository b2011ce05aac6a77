from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved
from inventory import domain
from inventory.domain import Change, Reservation, Status
from tests.builders import order_created

ORDER = order_created()


def reservation(status: Status) -> Reservation:
    version = {"HELD": 1, "SOLD": 1, "REJECTED": 1, "RELEASED": 2}.get(status, 0)
    return Reservation(1, "burger", 2, status, "out_of_stock" if status is Status.REJECTED else None, version)


def reserve(before: Reservation) -> Change:
    return domain.reserve(before, ORDER, available=2)


def reserve_too_much(before: Reservation) -> Change:
    return domain.reserve(before, ORDER, available=1)


MOVES = {
    (reserve, Status.UNHEARD): (Status.HELD, [InventoryReserved]),
    (reserve, Status.CONFIRMED): (Status.SOLD, [InventoryReserved]),
    (reserve_too_much, Status.UNHEARD): (Status.REJECTED, [InventoryRejected]),
    (reserve_too_much, Status.CONFIRMED): (Status.REJECTED, [InventoryRejected]),
    (domain.confirm, Status.UNHEARD): (Status.CONFIRMED, []),
    (domain.confirm, Status.HELD): (Status.SOLD, []),
    (domain.cancel, Status.UNHEARD): (Status.CANCELLED, []),
    (domain.cancel, Status.HELD): (Status.RELEASED, [InventoryReleased]),
}


@pytest.mark.parametrize(
    ("transition", "status"), list(product([reserve, reserve_too_much, domain.confirm, domain.cancel], Status))
)
def test_a_status_changes_only_as_in_the_table(transition, status) -> None:
    before = reservation(status)
    _, after, events = transition(before)
    expected, types = MOVES.get((transition, status), (status, []))
    assert after.status is expected
    assert [type(event) for event in events] == types
    assert [event.version for event in events] == list(range(before.version + 1, after.version + 1))
    if (transition, status) not in MOVES:
        assert after == before


def test_inventory_reserved_has_all_fields_that_payments_needs() -> None:
    [event] = domain.reserve(Reservation(1, "burger", 2), ORDER, 2).events
    shared = ("order_id", "user_id", "sku", "quantity", "amount_cents", "currency", "expires_at", "payment_reference")
    assert event.model_dump(exclude={"version"}) == ORDER.model_dump(include=set(shared))


@pytest.mark.parametrize(("available", "amount_cents"), [(None, 1700), (2, None), (None, None)])
def test_a_sku_without_stock_row_or_price_is_unknown(available, amount_cents) -> None:
    order = order_created(amount_cents=amount_cents)
    _, after, [event] = domain.reserve(Reservation(1, "burger", 2), order, available)
    assert (after.status, after.reason, event.reason) == (Status.REJECTED, "unknown_sku", "unknown_sku")


def test_a_rejected_order_takes_no_stock_so_a_later_smaller_order_fits() -> None:
    wanted = [order_created(n, quantity=quantity) for n, quantity in enumerate([6, 5, 4, 1], start=1)]
    changes = domain.allocate(with_reservations(wanted), {"burger": 10})
    assert [c.after.status for c in changes] == ["HELD", "REJECTED", "HELD", "REJECTED"]


def with_reservations(orders):
    return [(Reservation(o.order_id, o.sku, o.quantity), o) for o in orders]


skus = st.sampled_from(["burger", "pizza", "sushi", "nowhere"])
quantities = st.integers(1, 20)
stocks = st.fixed_dictionaries({sku: st.integers(0, 60) for sku in ("burger", "pizza", "sushi")})


@st.composite
def arrivals(draw):
    """Orders as they arrive; for some, other events or even the confirmation arrived earlier."""
    wanted = draw(st.lists(st.tuples(skus, quantities, st.sampled_from(list(Status)), st.booleans())))
    return [
        (
            replace(reservation(status), order_id=n, sku=sku, quantity=quantity),
            order_created(n, sku=sku, quantity=quantity, amount_cents=100 if priced else None),
        )
        for n, (sku, quantity, status, priced) in enumerate(wanted, start=1)
    ]


@given(arrivals(), stocks)
def test_no_unit_is_reserved_twice_and_none_is_lost(wanted, stock) -> None:
    moved = domain.moves(domain.allocate(wanted, stock))
    assert moved.keys() <= stock.keys()
    for sku, places in moved.items():
        assert sum(places.values()) == 0
        assert stock[sku] + places["available"] >= 0
        assert places["held"] >= 0
        assert places["sold"] >= 0


@given(arrivals(), stocks)
def test_each_order_gets_only_stock_that_earlier_orders_left(wanted, stock) -> None:
    left = dict(stock)
    for change, (before, order) in zip(domain.allocate(wanted, stock), wanted, strict=True):
        assert change == domain.reserve(before, order, left.get(order.sku))
        if change.after.place != before.place:
            left[order.sku] -= order.quantity


@given(arrivals(), stocks, st.data())
def test_later_orders_do_not_change_the_result_of_an_earlier_one(wanted, stock, data) -> None:
    first = data.draw(st.integers(0, len(wanted)))
    assert domain.allocate(wanted, stock)[:first] == domain.allocate(wanted[:first], stock)


@given(st.lists(st.sampled_from([reserve, reserve_too_much, domain.confirm, domain.cancel]), max_size=8))
def test_units_of_a_reservation_move_between_places_and_are_counted_once(transitions) -> None:
    state, places = Reservation(1, "burger", 2), {"available": 2, "held": 0, "sold": 0}
    for transition in transitions:
        change = transition(state)
        for place, by in domain.moves([change]).get("burger", {}).items():
            places[place] += by
        state = change.after
        assert places == {place: 2 if place == state.place else 0 for place in places}
