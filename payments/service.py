"""The use cases of payments: intend a charge, cancel it, take over what is due, and settle an outcome.

What must stay true: no use case calls the provider. The intent is committed before the call, the outcome after it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from contracts.inventory import InventoryReserved
from payments import domain, store
from payments.domain import Claim, Outcome, Payment, Status, Unanswered
from shared import postgres, tracing
from shared.delivery import events
from shared.delivery.events import Encoded, Event
from shared.postgres import Connection


async def intend(conn: Connection, reserved: Sequence[InventoryReserved], claim: Claim, now: datetime) -> list[int]:
    """Record the intent to charge these orders, under the claim. Returns the ids of the orders to charge now.

    An order that has a payment already, or a tombstone, stays as it is.
    """
    changes = {e.order_id: domain.intend(e, claim, now, tracing.of(str(e.order_id)) or None) for e in reserved}
    new = [events.encode(event) for _, failed in changes.values() for event in failed]
    added = await store.add(conn, [payment for payment, _ in changes.values()], new)
    return [payment.order_id for payment, _ in changes.values() if _is_to_charge(payment, added)]


def _is_to_charge(payment: Payment, added: set[int]) -> bool:
    return payment.order_id in added and payment.status is Status.PENDING


async def cancel(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[int]:
    """Undo the payments of cancelled orders, or prevent them. Returns the ids to refund now, under the claim."""
    known = await store.get(conn, order_ids)
    unknown = [domain.tombstone(order_id, now) for order_id in order_ids if order_id not in known]
    if unknown:
        await store.add(conn, unknown)
    changed = [after for before in known.values() if (after := domain.cancel(before, claim)) != before]
    if changed:
        await store.save(conn, changed)
    return [payment.order_id for payment in changed if payment.status is Status.REFUNDING]


async def claimed(conn: Connection, claims: Sequence[tuple[int, int]]) -> list[Payment]:
    """Read the open payments under these claims (order id and token). A claim that did not commit has none."""
    tokens = set(claims)
    found = await store.get(conn, [order_id for order_id, _ in claims])
    held = [payment for payment in found.values() if (payment.order_id, payment.claim.token) in tokens]
    return [payment for payment in held if payment.status in domain.OPEN and payment.quarantined is None]


async def take_over(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[Payment]:
    """Claim open payments whose claim is over. Returns those that the caller holds now."""
    await postgres.lock_keys(conn, [str(order_id) for order_id in order_ids])
    return await store.take_over(conn, order_ids, claim, now)


async def settle(
    conn: Connection, outcomes: Sequence[tuple[Payment, Outcome]], now: datetime, until: datetime
) -> list[Payment]:
    """Record outcomes and their events. Returns the payments that need another call, claimed until `until`.

    The caller's transaction holds the locks of the orders' keys. A payment that another worker has taken over meanwhile
    is left to that worker, which calls the provider with the same key.
    """
    known = await store.get(conn, [asked.order_id for asked, _ in outcomes])
    saved: list[Payment] = []
    again: list[Payment] = []
    new: list[Event] = []
    for asked, outcome in outcomes:
        payment = known[asked.order_id]
        if payment.claim.token == asked.claim.token:
            payment, follows = domain.settle(payment, outcome)
            if domain.next_call(payment, now) and not isinstance(outcome, Unanswered):
                payment = replace(payment, claim=replace(payment.claim, until=until))
                again.append(payment)
            saved.append(payment)
            new += follows
    if saved:
        await store.save(conn, saved, _encoded([asked for asked, _ in outcomes], new))
    return again


def _encoded(asked: Sequence[Payment], new: Sequence[Event]) -> list[Encoded]:
    """Encode events with the traces of the calls that led to them."""
    with tracing.carrying({str(p.order_id): p.trace for p in asked if p.trace}):
        return [events.encode(event) for event in new]
