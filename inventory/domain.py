"""What a reservation is and may become, and where its units are: each is either available, or held, or sold."""

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
"""What names an order, a sku and a quantity."""

MAX_UNITS = 10**15
"""Of one sku, wherever they are: what any reader of JSON still counts exactly."""


class Status(StrEnum):
    """The first is never stored; the last two wait for an OrderCreated that comes after the end of its order."""

    UNHEARD = "UNHEARD"
    HELD = "HELD"
    SOLD = "SOLD"
    RELEASED = "RELEASED"
    REJECTED = "REJECTED"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an order has of a sku, as it stands; `version` counts the events that told of it."""

    order_id: int
    sku: str
    quantity: int
    status: Status = Status.UNHEARD
    reason: RejectReason | None = None
    version: int = 0

    @property
    def place(self) -> Place:
        """Where the units are that this is about."""
        match self.status:
            case Status.HELD:
                return "held"
            case Status.SOLD:
                return "sold"
            case Status.UNHEARD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
                return "available"


@dataclass(frozen=True, slots=True)
class Stock:
    """Where the units of a sku are."""

    sku: str
    available: int
    held: int
    sold: int


@dataclass(frozen=True, slots=True)
class Restock:
    """Somebody's wish to add units; with a key it is done once, however often it comes."""

    user_id: str
    key: str | None
    sku: str
    quantity: int


class Change(NamedTuple):
    """What a transition did to a reservation, and what there is to tell of it."""

    before: Reservation
    after: Reservation
    facts: list[Event]


def reserve(before: Reservation, order: OrderCreated, available: int | None) -> Change:
    """Hold what the order asks for, all of it, or reject it; `available` is None for an unknown sku."""
    match before.status:
        case Status.UNHEARD:
            return _hold(before, order, available)
        case Status.CONFIRMED:
            held = _hold(before, order, available)
            return Change(before, confirm(held.after).after, held.facts)
        case Status.HELD | Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CANCELLED:
            return Change(before, before, [])


def _hold(before: Reservation, order: OrderCreated, available: int | None) -> Change:
    if available is None or order.amount_cents is None:
        return _reject(before, "unknown_sku")
    if before.quantity > available:
        return _reject(before, "out_of_stock")
    after = replace(before, status=Status.HELD, version=before.version + 1)
    fact = InventoryReserved(
        version=after.version,
        order_id=after.order_id,
        user_id=order.user_id,
        sku=after.sku,
        quantity=after.quantity,
        amount_cents=order.amount_cents,
        currency=order.currency,
        expires_at=order.expires_at,
    )
    return Change(before, after, [fact])


def _reject(before: Reservation, reason: RejectReason) -> Change:
    after = replace(before, status=Status.REJECTED, reason=reason, version=before.version + 1)
    fact = InventoryRejected(
        version=after.version, order_id=after.order_id, sku=after.sku, quantity=after.quantity, reason=reason
    )
    return Change(before, after, [fact])


def confirm(before: Reservation) -> Change:
    """The order was paid: what is held for it is sold. An order not heard of is sold when it is."""
    match before.status:
        case Status.UNHEARD:
            return Change(before, replace(before, status=Status.CONFIRMED), [])
        case Status.HELD:
            return Change(before, replace(before, status=Status.SOLD), [])
        case Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
            return Change(before, before, [])


def cancel(before: Reservation) -> Change:
    """The order ended without a sale: what is held for it is available again. One not heard of never holds anything."""
    match before.status:
        case Status.UNHEARD:
            return Change(before, replace(before, status=Status.CANCELLED), [])
        case Status.HELD:
            after = replace(before, status=Status.RELEASED, version=before.version + 1)
            fact = InventoryReleased(
                version=after.version, order_id=after.order_id, sku=after.sku, quantity=after.quantity
            )
            return Change(before, after, [fact])
        case Status.SOLD | Status.RELEASED | Status.REJECTED | Status.CONFIRMED | Status.CANCELLED:
            return Change(before, before, [])


def allocate(wishes: Iterable[tuple[Reservation, OrderCreated]], available: Mapping[str, int]) -> list[Change]:
    """Serve who comes first. A refused order takes nothing, so a later smaller one may still fit."""
    left = dict(available)
    changes = []
    for before, order in wishes:
        change = reserve(before, order, left.get(before.sku))
        if change.after.place != before.place:
            left[before.sku] -= before.quantity
        changes.append(change)
    return changes


def moves(changes: Iterable[Change]) -> dict[str, Counter[Place]]:
    """Add up by how much each place of each sku grows or shrinks; what stays where it is does not count."""
    moved: dict[str, Counter[Place]] = defaultdict(Counter)
    for before, after, _ in changes:
        if before.place != after.place:
            moved[before.sku][before.place] -= before.quantity
            moved[before.sku][after.place] += before.quantity
    return moved
