"""Every SQL statement of the inventory service."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from inventory.domain import Place, Reservation, Status
from shared import db, outbox
from shared.db import Connection
from shared.events import Encoded

# A lock on nothing: only who asks for it waits here. A transaction that locks one row of stock, once, need not ask.
_TAKE_TURN = "select pg_advisory_xact_lock(hashtextextended(current_schema() || ' stock', 0))"

# Says how much may be given away, and guards it: nobody else changes these rows before the caller's transaction ends.
# Locks are taken in the order of skus, so that two who each make one such call cannot deadlock.
_LOCK = "select sku, available from stock where sku = any($1::text[]) order by sku for update"

# The rows of stock are locked by `lock`, and the table's checks refuse what would take more than there is; only who
# holds the lock of an order's key writes its reservation, so what was read before is what is replaced here. Tables
# grow under cached plans: `= any` keeps to the index whichever join is planned.
_WRITE = f"""
with moved as (
  update stock s set available = s.available + m.available, held = s.held + m.held, sold = s.sold + m.sold
    from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) m(sku, available, held, sold)
   where s.sku = m.sku and s.sku = any($1::text[])),
written as (
  insert into reservations (order_id, sku, quantity, status, reason, version)
  select * from unnest($5::bigint[], $6::text[], $7::int[], $8::text[], $9::text[], $10::int[])
  on conflict (order_id) do update set status = excluded.status, reason = excluded.reason, version = excluded.version,
     updated_at = now())
{outbox.insert_sql(11)}
"""


async def take_turn(conn: Connection) -> None:
    """Wait until no other transaction that called this is open, and keep others waiting until this one ends."""
    await conn.execute(_TAKE_TURN)


async def lock(conn: Connection, skus: Collection[str]) -> dict[str, int]:
    """Lock stock in the caller's transaction; returns what is available of each sku that is known."""
    return {row["sku"]: row["available"] for row in await conn.fetch(_LOCK, list(skus))}


async def get(conn: Connection, order_ids: Sequence[int]) -> dict[int, Reservation]:
    """Read reservations; those that do not exist are not in the answer."""
    rows = await conn.fetch(
        "select order_id, sku, quantity, status, reason, version from reservations where order_id = any($1)", order_ids
    )
    return {row["order_id"]: _reservation(row) for row in rows}


async def write(
    conn: Connection,
    moves: Mapping[str, Counter[Place]],
    reservations: Sequence[Reservation],
    events: Sequence[Encoded],
) -> None:
    """Move units of locked stock, store reservations as they now stand, and say so, in the caller's transaction."""
    moved = [(sku, m["available"], m["held"], m["sold"]) for sku, m in sorted(moves.items())]
    stored = [(r.order_id, r.sku, r.quantity, r.status, r.reason, r.version) for r in reservations]
    await conn.execute(_WRITE, *db.columns(moved, 4), *db.columns(stored, 6), *outbox.columns(events))


async def add_skus(conn: Connection, skus: Sequence[str]) -> None:
    """Make rows of empty stock for skus that have none."""
    await conn.execute(
        "insert into stock (sku, available) select sku, 0 from unnest($1::text[]) sku on conflict do nothing", skus
    )


def _reservation(row: Any) -> Reservation:
    return Reservation(
        row["order_id"], row["sku"], row["quantity"], Status(row["status"]), row["reason"], row["version"]
    )
