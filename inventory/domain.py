"""Reservations, their transitions, and their units: each unit is either available, held or sold."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved, RejectReason
from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from shared.delivery.events import Event

Place = Literal["available", "held", "sold"]
Wish = OrderCreated | OrderConfirmed | OrderCancelled
"""An event that names an order, a sku and a quantity."""

MAX_UNITS = 10**15
"""The most units of one sku in all places. Every reader of JSON can represent this integer exactly."""


class Status(StrEnum):
    """UNHEARD is never stored. CONFIRMED and CANCELLED are tombstones: the order ended before its OrderCreated came."""

    UNHEARD = "UNHEARD"
    HELD = "HELD"
    SOLD = "SOLD"
    RELEASED = "RELEASED"
    REJECTED = "REJECTED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Reservation:
    """The units of a sku that belong to an order. `version` counts the events about the reservation."""

    order_id: int
    sku: str
    quantity: int
    status: Status = Status.UNHEARD
    reason: RejectReason | None = None
    version: int = 0

    @property
    def place(self) -> Place:
        """Where the units of this reservation are."""
        match self.status:
            case Status.HELD:
                return "held"
            case Status.SOLD:
                return "sold"
            case Status.UNHEARD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
                return "available"


@dataclass(frozen=True, slots=True)
class Stock:
    """The units of a sku, by place."""

    sku: str
    available: int
    held: int
    sold: int


@dataclass(frozen=True, slots=True)
class Restock:
    """A request to add units. With a key it is done once, however often it is repeated."""

    user_id: str
    key: str | None
    sku: str
    quantity: int


class Change(NamedTuple):
    """A reservation before and after a transition, and the events that follow."""

    before: Reservation
    after: Reservation
    events: list[Event]


def reserve(before: Reservation, order: OrderCreated, available: int | None) -> Change:
    """Hold the whole quantity of the order, or reject it. `available` is None for an unknown sku."""
    match before.status:
        case Status.UNHEARD:
            return _hold(before, order, available)
        case Status.CONFIRMED:
            held = _hold(before, order, available)
            return Change(before, confirm(held.after).after, held.events)
        case Status.HELD | Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CANCELLED:
            return Change(before, before, [])


def _hold(before: Reservation, order: OrderCreated, available: int | None) -> Change:
    if available is None or order.amount_cents is None:
        return _reject(before, "unknown_sku")
    if before.quantity > available:
        return _reject(before, "out_of_stock")
    after = replace(before, status=Status.HELD, version=before.version + 1)
    event = InventoryReserved(
        version=after.version,
        order_id=after.order_id,
        user_id=order.user_id,
        sku=after.sku,
        quantity=after.quantity,
        amount_cents=order.amount_cents,
        currency=order.currency,
        expires_at=order.expires_at,
        payment_reference=order.payment_reference,
    )
    return Change(before, after, [event])


def _reject(before: Reservation, reason: RejectReason) -> Change:
    after = replace(before, status=Status.REJECTED, reason=reason, version=before.version + 1)
    event = InventoryRejected(
        version=after.version, order_id=after.order_id, sku=after.sku, quantity=after.quantity, reason=reason
    )
    return Change(before, after, [event])


def confirm(before: Reservation) -> Change:
    """The order is paid: sell the held units. Without an OrderCreated so far, the result is a tombstone."""
    match before.status:
        case Status.UNHEARD:
            return Change(before, replace(before, status=Status.CONFIRMED), [])
        case Status.HELD:
            return Change(before, replace(before, status=Status.SOLD), [])
        case Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
            return Change(before, before, [])


def cancel(before: Reservation) -> Change:
    """The order is cancelled: release the held units. Without an OrderCreated so far, the result is a tombstone."""
    match before.status:
        case Status.UNHEARD:
            return Change(before, replace(before, status=Status.CANCELLED), [])
        case Status.HELD:
            after = replace(before, status=Status.RELEASED, version=before.version + 1)
            event = InventoryReleased(
                version=after.version, order_id=after.order_id, sku=after.sku, quantity=after.quantity
            )
            return Change(before, after, [event])
        case Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
            return Change(before, before, [])


def allocate(wishes: Iterable[tuple[Reservation, OrderCreated]], available: Mapping[str, int]) -> list[Change]:
    """Serve orders in arrival order. A rejected order takes nothing, so a later smaller one may still fit."""
    left = dict(available)
    changes = []
    for before, order in wishes:
        change = reserve(before, order, left.get(before.sku))
        if change.after.place != before.place:
            left[before.sku] -= before.quantity
        changes.append(change)
    return changes


def moves(changes: Iterable[Change]) -> dict[str, Counter[Place]]:
    """By how many units each place of each sku changes, in total."""
    moved: dict[str, Counter[Place]] = defaultdict(Counter)
    for before, after, _ in changes:
        if before.place != after.place:
            moved[before.sku][before.place] -= before.quantity
            moved[before.sku][after.place] += before.quantity
    return moved
