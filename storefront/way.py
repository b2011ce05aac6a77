"""The way of an order: which service did what, with which event, and in which file. Then what is still awaited.

What must stay true: every event about orders has a step, and the file and the function of a step exist.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from contracts.inventory import InventoryRejected, InventoryReleased, InventoryReserved
from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.payments import PaymentFailed, PaymentRefunded, PaymentSucceeded
from shared.delivery import events
from shared.delivery.events import Received, Record, Undecodable


@dataclass(frozen=True, slots=True)
class Work:
    """What a service does before it publishes an event, and the module and the function that do it."""

    service: str
    what: str
    module: str
    function: str

    @property
    def file(self) -> str:
        return self.module.replace(".", "/") + ".py"


WORK: Mapping[type[BaseModel], Work] = {
    OrderCreated: Work("orders", "accepted the order", "orders.service", "place"),
    InventoryReserved: Work("inventory", "holds the stock", "inventory.service", "reserve"),
    InventoryRejected: Work("inventory", "has nothing to hold", "inventory.service", "reserve"),
    PaymentSucceeded: Work("payments", "charged the customer", "payments.service", "settle"),
    PaymentFailed: Work("payments", "charged nothing", "payments.service", "settle"),
    OrderConfirmed: Work("orders", "confirmed the order; inventory sells what it holds", "orders.service", "confirm"),
    OrderCancelled: Work("orders", "cancelled the order", "orders.service", "cancel_all"),
    InventoryReleased: Work("inventory", "made the held stock available again", "inventory.service", "cancel"),
    PaymentRefunded: Work("payments", "returned the money", "payments.service", "settle"),
}
_MODELS = {model.__name__: model for model in WORK}

Types = AbstractSet[type[BaseModel]]

_END: Types = {OrderConfirmed, OrderCancelled}
_NEXT: Sequence[tuple[Types, str, str, Types]] = (
    ({OrderCreated}, "inventory", "to hold the stock", {InventoryReserved, InventoryRejected, *_END}),
    ({InventoryReserved}, "payments", "to charge the customer", {PaymentSucceeded, PaymentFailed, *_END}),
    ({InventoryRejected}, "orders", "to cancel the order", _END),
    ({PaymentFailed}, "orders", "to cancel the order", _END),
    ({PaymentSucceeded}, "orders", "to confirm the order", _END),
    ({OrderCancelled, InventoryReserved}, "inventory", "to release the stock", {InventoryReleased}),
    ({OrderCancelled, PaymentSucceeded}, "payments", "to return the money", {PaymentRefunded}),
)
"""After all of the first events, a service is awaited until one of the last events."""

_CAUSE: Mapping[str, type[BaseModel]] = {
    "InventoryReserved": OrderCreated,
    "InventoryRejected": OrderCreated,
    "PaymentSucceeded": InventoryReserved,
    "PaymentFailed": InventoryReserved,
    "OrderConfirmed": PaymentSucceeded,
    "out_of_stock": InventoryRejected,
    "unknown_sku": InventoryRejected,
    "payment_declined": PaymentFailed,
}
"""The event before an event, by its name or its reason. Topics are read independently, so it may come later."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event. `after_ms` is the time since the first known event of the order."""

    name: str
    work: Work
    after_ms: int
    topic: str
    partition: int
    offset: int
    detail: str


@dataclass(frozen=True, slots=True)
class Way:
    """The known steps in the order of time, and the services that are awaited, each with what it has to do.

    It `is_over` when nothing is awaited and no step is missing in between.
    """

    steps: Sequence[Step]
    awaited: Sequence[tuple[str, str]]
    is_over: bool


def of(records: Iterable[Record]) -> Way:
    """The way in these records of one order. A record that is no event of an order is left out."""
    known = {one.event_id: (at, one) for at, one in filter(None, map(_dated, records))}
    found = sorted(known.values(), key=lambda pair: pair[0])
    seen = {type(one.event) for _, one in found}
    awaited = [(service, what) for after, service, what, until in _NEXT if after <= seen and not until & seen]
    steps = [_step(one, (at - found[0][0]).total_seconds()) for at, one in found]
    causes = {_CAUSE[text] for step in steps for text in (step.name, step.detail) if text in _CAUSE}
    return Way(steps, awaited, is_over=bool(steps) and not awaited and causes <= seen)


def _dated(record: Record) -> tuple[datetime, Received] | None:
    """The event in a record, and when its service wrote it."""
    model, written = _MODELS.get(events.type_of(record) or ""), dict(record.headers).get("ce_time") or b""
    if model is None:
        return None
    try:
        return datetime.fromisoformat(written.decode()).astimezone(UTC), events.decode(record, model)
    except (Undecodable, ValueError, OverflowError):
        return None


def _step(one: Received, after_seconds: float) -> Step:
    record, model, detail = one.record, type(one.event), _detail(one.event)
    place = (record.topic, record.partition, record.offset)
    return Step(model.__name__, WORK[model], round(after_seconds * 1000), *place, detail)


def _detail(event: Any) -> str:
    """The reason, the amount, or what is held."""
    if isinstance(event, InventoryReserved):
        return f"{event.quantity} {event.sku}"
    if reason := getattr(event, "reason", ""):
        return str(reason)
    cents = getattr(event, "amount_cents", None)
    return "" if cents is None else money(cents, getattr(event, "currency", ""))


def money(cents: int, currency: str) -> str:
    return f"{cents / 100:,.2f} {currency}".strip()
