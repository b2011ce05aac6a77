"""Every SQL statement of the payments service; the provider's are its own business.

What must stay true: whoever writes a payment holds the lock of its key, so that nothing comes between reading a row
and writing it back.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from payments.domain import OPEN, Claim, Payment, Status
from shared.delivery import events, outbox
from shared.delivery.events import Event
from shared.postgres.connections import Connection

_COLUMNS = (
    "order_id, status, amount_cents, currency, expires_at, claim, claimed_until, "
    "cancel_requested, reason, provider_ref, version, attempts, trace, user_id"
)

# The one guard of "one payment per order": a row that is there, be it a tombstone, stays as it is and is not returned.
_ADD = f"""
insert into payments ({_COLUMNS})
select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[], $6::bigint[],
                     $7::timestamptz[], $8::bool[], $9::text[], $10::text[], $11::int[], $12::int[], $13::text[],
                     $14::text[])
on conflict do nothing returning order_id
"""

_GET = f"select {_COLUMNS} from payments where order_id = any($1::bigint[])"

# Says: payments have become what they are given as, with the events that tell of it, or neither. Ids are given twice,
# because a plan made while the table was empty would else join it by reading all of it, or all of its index.
_SAVE = f"""
with saved as (
  update payments p
     set status = c.status, claim = c.claim, claimed_until = c.claimed_until, cancel_requested = c.cancel_requested,
         reason = c.reason, provider_ref = c.provider_ref, version = c.version, attempts = c.attempts,
         updated_at = now()
    from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bool[], $6::text[], $7::text[],
                $8::int[], $9::int[])
         c(order_id, status, claim, claimed_until, cancel_requested, reason, provider_ref, version, attempts)
   where p.order_id = c.order_id and p.order_id = any($1::bigint[]))
{outbox.insert_sql(10)}
"""

_DUE = """
select order_id from payments where status in ('PENDING', 'REFUNDING') and claimed_until <= $1
 order by claimed_until limit $2
"""

# Says: these are in the caller's hands now. Whoever held one before can record nothing about it any more. What was
# settled, postponed or taken by another since `due` saw it is not returned. The statuses are a parameter, so that the
# rows are found by their ids and not by an index of all that is due, which is long after an outage.
_TAKE_OVER = f"""
update payments set claim = $2, claimed_until = $3
 where order_id = any($1::bigint[]) and status = any($5::text[]) and claimed_until <= $4
returning {_COLUMNS}
"""


async def add(conn: Connection, payments: Sequence[Payment]) -> set[int]:
    """Insert payments of orders that have none yet; returns the ids of those orders."""
    rows = [
        (
            *(p.order_id, p.status, p.amount_cents, p.currency, p.expires_at, p.claim.token, p.claim.until),
            *(p.cancel_requested, p.reason, p.provider_ref, p.version, p.attempts, p.trace, p.user_id),
        )
        for p in payments
    ]
    return {row[0] for row in await conn.fetch(_ADD, *zip(*rows, strict=True))}


async def get(conn: Connection, order_ids: Sequence[int]) -> dict[int, Payment]:
    """Read the payments of orders; those that do not exist are not in the answer."""
    return {row["order_id"]: _payment(row) for row in await conn.fetch(_GET, order_ids)}


async def find(conn: Connection, order_id: int) -> tuple[Payment, datetime, datetime] | None:
    """Read one payment, and when it was made and last changed."""
    sql = f"select {_COLUMNS}, created_at, updated_at from payments where order_id = $1"
    row = await conn.fetchrow(sql, order_id)
    return None if row is None else (_payment(row), row["created_at"], row["updated_at"])


async def save(conn: Connection, payments: Sequence[Payment], facts: Sequence[Event] = ()) -> None:
    """Write payments back as they have become, with the facts that follow."""
    rows = [
        (
            *(p.order_id, p.status, p.claim.token, p.claim.until, p.cancel_requested),
            *(p.reason, p.provider_ref, p.version, p.attempts),
        )
        for p in payments
    ]
    token = events.traces.set({str(p.order_id): p.trace for p in payments if p.trace})
    try:
        encoded = outbox.columns([events.encode(fact) for fact in facts])
    finally:
        events.traces.reset(token)
    await conn.execute(_SAVE, *zip(*rows, strict=True), *encoded)


async def due(conn: Connection, now: datetime, limit: int) -> list[int]:
    """Find open payments that nobody holds, those that have waited longest first; returns their orders' ids."""
    return [row[0] for row in await conn.fetch(_DUE, now, limit)]


async def take_over(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[Payment]:
    """Claim those of these payments that are still open and still nobody's."""
    return [_payment(row) for row in await conn.fetch(_TAKE_OVER, order_ids, claim.token, claim.until, now, OPEN)]


def _payment(row: Any) -> Payment:
    return Payment(row[0], Status(row[1]), row[2], row[3], row[4], Claim(row[5], row[6]), *row[7:14])
