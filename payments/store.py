"""Every SQL statement of the payments service. Those of the simulated provider are in `provider.py`.

What must stay true: a payment is written only under the lock of its key, so no other transaction writes a row between
reading it and writing it back.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from payments.domain import OPEN, Claim, Payment, Status
from shared import postgres
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection

_COLUMNS = (
    "order_id, status, amount_cents, currency, expires_at, claim, claimed_until, "
    "cancel_requested, reason, provider_ref, version, attempts, trace, user_id, quarantined, payment_reference"
)

# The guard of "one payment per order": a row that exists (it can be a tombstone) is not changed and not returned, and
# its events are not written.
_ADD = f"""
with added as (
insert into payments ({_COLUMNS})
select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[], $6::bigint[],
                     $7::timestamptz[], $8::bool[], $9::text[], $10::text[], $11::int[], $12::int[], $13::text[],
                     $14::text[], $15::text[], $16::text[])
on conflict do nothing returning order_id),
published as ({outbox.insert_sql(17, "row.key in (select order_id::text from added)")})
select order_id from added
"""

_GET = f"select {_COLUMNS} from payments where order_id = any($1::bigint[])"

# Replaces payments and inserts their events, or neither. The ids are a separate condition: without it, a plan that was
# made for an empty table would scan the whole table.
_SAVE = f"""
with saved as (
  update payments p
     set status = c.status, claim = c.claim, claimed_until = c.claimed_until, cancel_requested = c.cancel_requested,
         reason = c.reason, provider_ref = c.provider_ref, version = c.version, attempts = c.attempts,
         quarantined = c.quarantined, updated_at = now()
    from unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bool[], $6::text[], $7::text[],
                $8::int[], $9::int[], $10::text[])
         c(order_id, status, claim, claimed_until, cancel_requested, reason, provider_ref, version, attempts,
           quarantined)
   where p.order_id = c.order_id and p.order_id = any($1::bigint[]))
{outbox.insert_sql(11)}
"""

_DUE = """
select order_id from payments
 where status in ('PENDING', 'REFUNDING') and claimed_until <= $1 and quarantined is null
 order by claimed_until limit $2
"""

# Moves payments to the caller's claim. The former holder can no longer record an outcome for them. A payment that was
# settled, postponed or taken over since `due` is not returned. The statuses are a parameter, so that Postgres finds the
# rows by id, and not by the index of due payments, which is large after an outage.
_TAKE_OVER = f"""
update payments set claim = $2, claimed_until = $3
 where order_id = any($1::bigint[]) and status = any($5::text[]) and claimed_until <= $4 and quarantined is null
returning {_COLUMNS}
"""


async def add(conn: Connection, payments: Sequence[Payment], events: Sequence[Encoded] = ()) -> set[int]:
    """Insert payments of orders that have none, with their events. Returns the ids of those orders."""
    rows = [
        (
            *(p.order_id, p.status, p.amount_cents, p.currency, p.expires_at, p.claim.token, p.claim.until),
            *(p.cancel_requested, p.reason, p.provider_ref, p.version, p.attempts, p.trace, p.user_id, p.quarantined),
            p.payment_reference,
        )
        for p in payments
    ]
    found = await conn.fetch(_ADD, *zip(*rows, strict=True), *outbox.columns(events))
    return {row["order_id"] for row in found}


async def get(conn: Connection, order_ids: Sequence[int]) -> dict[int, Payment]:
    """Read payments by order id. Payments that do not exist are left out."""
    return {row["order_id"]: _payment(row) for row in await conn.fetch(_GET, order_ids)}


async def find(conn: Connection, order_id: int) -> tuple[Payment, datetime, datetime] | None:
    """Read one payment, and the times of its creation and of its last change."""
    sql = f"select {_COLUMNS}, created_at, updated_at from payments where order_id = $1"
    row = await conn.fetchrow(sql, order_id)
    return None if row is None else (_payment(row), row["created_at"], row["updated_at"])


async def save(conn: Connection, payments: Sequence[Payment], events: Sequence[Encoded] = ()) -> None:
    """Write payments back, with their events, in the caller's transaction, which holds their keys' locks."""
    rows = [
        (
            *(p.order_id, p.status, p.claim.token, p.claim.until, p.cancel_requested),
            *(p.reason, p.provider_ref, p.version, p.attempts, p.quarantined),
        )
        for p in payments
    ]
    await conn.execute(_SAVE, *zip(*rows, strict=True), *outbox.columns(events))


async def oldest_open(conn: Connection) -> datetime | None:
    """When the oldest payment that waits for the provider was created."""
    created_at: datetime | None = await conn.fetchval(
        "select min(created_at) from payments where status in ('PENDING', 'REFUNDING')"
    )
    return created_at


async def due(conn: Connection, now: datetime, limit: int) -> list[int]:
    """Find open payments whose claim is over, the earliest end first. Returns their order ids."""
    return [row["order_id"] for row in await conn.fetch(_DUE, now, limit)]


async def take_over(conn: Connection, order_ids: Sequence[int], claim: Claim, now: datetime) -> list[Payment]:
    """Claim the payments that are still open, and that no other worker has claimed meanwhile."""
    return [_payment(row) for row in await conn.fetch(_TAKE_OVER, order_ids, claim.token, claim.until, now, OPEN)]


async def forget_tombstones(conn: Connection) -> int:
    """Delete tombstones of 30 days, a thousand at most: no event about their orders can come any more."""
    return await postgres.delete_some(conn, "payments", "currency = '' and created_at < now() - interval '30 days'")


async def books(conn: Connection, first: int | None, last: int | None) -> dict[str, int]:
    """Count the orders of these ids whose money is taken, and their money."""
    row = await postgres.one(
        conn,
        "select count(*) as count, coalesce(sum(amount_cents), 0)::bigint as cents from payments "
        "where order_id between $1 and $2 and status = 'SUCCEEDED'",
        first or 0,
        last or 0,
    )
    return {"count": row["count"], "cents": row["cents"]}


async def describe(conn: Connection, key: str) -> dict[str, Any] | None:
    """Read the whole row of the payment with this key, for administrators."""
    return await postgres.row_of_id(conn, "payments", "order_id", key)


def _payment(row: Any) -> Payment:
    """By position, because it is a hot loop; the columns are those of `_COLUMNS`."""
    return Payment(row[0], Status(row[1]), row[2], row[3], row[4], Claim(row[5], row[6]), *row[7:16])
