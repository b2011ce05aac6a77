"""The use cases of payments: intend a charge, cancel it, take over what is due, and settle what the provider said.

What must stay true: no use case calls the provider. The intent is committed before the call, the outcome after it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from contracts.inventory import InventoryReserved
from payments import domain, store
from payments.domain import Claim, Outcome, Payment, Status, Unanswered
from shared.delivery import events, outbox
from shared.delivery.events import Event
from shared.postgres import connections as db
from shared.postgres.connections import Connection


async def intend(conn: Connection, reserved: Sequence[InventoryReserved], claim: Claim, now: datetime) -> list[int]:
    """Record, under the claim, that these orders are to be charged; returns the orders that have now to be.

    Those with a payment, be it the tombstone of an order cancelled before, stay as they are.
    """
    traces = events.traces.get({})
    changes = {e.order_id: domain.intend(e, claim, now, traces.get(str(e.order_id))) for e in reserved}
    added = await store.add(conn, [payment for payment, _ in changes.values()])
    new = [changes[order_id] for order_id in changes if order_id in added]
    await outbox.append(conn, [fact for _, facts in new for fact in facts])
    return [payment.order_id for payment, _ in new if payment.status is Status.PENDING]


async def cancel(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[int]:
    """Undo the payments of cancelled orders, or never make them; returns the orders to refund now, under the claim."""
    known = await store.get(conn, order_ids)
    unknown = [domain.tombstone(order_id, now) for order_id in order_ids if order_id not in known]
    if unknown:
        await store.add(conn, unknown)
    changed = [after for before in known.values() if (after := domain.cancel(before, claim)) != before]
    if changed:
        await store.save(conn, changed)
    return [payment.order_id for payment in changed if payment.status is Status.REFUNDING]


async def claimed(conn: Connection, claims: Sequence[tuple[int, int]]) -> list[Payment]:
    """Read the open payments held under these pairs of order and token; a claim that did not commit holds none."""
    tokens = set(claims)
    found = await store.get(conn, [order_id for order_id, _ in claims])
    held = [payment for payment in found.values() if (payment.order_id, payment.claim.token) in tokens]
    return [payment for payment in held if payment.status in domain.OPEN]


async def take_over(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[Payment]:
    """Claim open payments that nobody holds (any more); returns those that are the caller's now."""
    await db.lock_keys(conn, [str(order_id) for order_id in order_ids])
    return await store.take_over(conn, order_ids, claim, now)


async def settle(conn: Connection, outcomes: Sequence[tuple[Payment, Outcome]], until: datetime) -> list[Payment]:
    """Record what the provider said, and the facts that follow; returns what needs another call, claimed `until` then.

    The caller's transaction holds the locks of the orders' keys. What was taken over by another meanwhile is left to
    that one, who asks the same provider under the same key.
    """
    known = await store.get(conn, [asked.order_id for asked, _ in outcomes])
    saved: list[Payment] = []
    again: list[Payment] = []
    facts: list[Event] = []
    for asked, outcome in outcomes:
        payment = known[asked.order_id]
        if payment.claim.token == asked.claim.token:
            payment, said = domain.settle(payment, outcome)
            if payment.status in domain.OPEN and not isinstance(outcome, Unanswered):
                payment = replace(payment, claim=replace(payment.claim, until=until))
                again.append(payment)
            saved.append(payment)
            facts += said
    if saved:
        await store.save(conn, saved, facts)
    return again
