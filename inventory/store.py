"""Every SQL statement of the inventory service."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from inventory.domain import MAX_UNITS, Place, Reservation, Restock, Status, Stock, Wish
from shared import postgres
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection

# Reads the reservation of each order and the available units of its sku, and locks these rows of stock until the
# caller's transaction ends. They are locked in the order of skus.
_LOCK = """
with locked as materialized (
  select sku, available from stock where sku = any($2::text[]) order by sku for update)
select r.order_id, r.sku, r.quantity, r.status, r.reason, r.version, l.available
  from unnest($1::bigint[], $2::text[]) with ordinality o(order_id, sku, n)
  left join reservations r on r.order_id = o.order_id and r.order_id = any($1)
  left join locked l on l.sku = o.sku
 order by o.n
"""

# `lock` has locked the rows of stock, and the table's checks refuse negative units. A reservation is written only under
# the lock of its order's key, so the row has not changed since it was read. Tables grow while plans are cached; `= any`
# makes Postgres use the index, whatever join it plans.
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


# Inserts the key of a restock. The primary key is the guard: if another request with the same key is under way, the
# insert waits for it. No row is returned if the key was used before.
_USE_KEY = """
insert into restocks (user_id, key, sku, quantity) values ($1, $2, $3, $4) on conflict do nothing returning true
"""

# No row is returned if the sku is unknown or there would be too many units.
_RESTOCK = """
update stock set available = available + $2
 where sku = $1 and available + held + sold <= $3::bigint - $2 returning sku, available, held, sold
"""


async def lock(conn: Connection, orders: Sequence[Wish]) -> list[tuple[Reservation | None, int | None]]:
    """Lock the stock of these orders. Returns for each its reservation or None, and the available units or None."""
    rows = await conn.fetch(_LOCK, [o.order_id for o in orders], [o.sku for o in orders])
    return [(None if row["order_id"] is None else _reservation(row), row["available"]) for row in rows]


async def write(
    conn: Connection,
    moves: Mapping[str, Counter[Place]],
    reservations: Sequence[Reservation],
    events: Sequence[Encoded],
) -> None:
    """Move units of locked stock, store reservations, and append events, in the caller's transaction."""
    moved = [(sku, m["available"], m["held"], m["sold"]) for sku, m in sorted(moves.items())]
    stored = [(r.order_id, r.sku, r.quantity, r.status, r.reason, r.version) for r in reservations]
    await conn.execute(_WRITE, *postgres.columns(moved, 4), *postgres.columns(stored, 6), *outbox.columns(events))


async def add_skus(conn: Connection, skus: Sequence[str]) -> None:
    """Insert a stock of 0 for skus that have none."""
    await conn.execute(
        "insert into stock (sku, available) select sku, 0 from unnest($1::text[]) sku on conflict do nothing", skus
    )


async def use_key(conn: Connection, restock: Restock) -> bool:
    """Use the key of a restock, in the caller's transaction. Returns False if it was used before."""
    row = await conn.fetchrow(_USE_KEY, restock.user_id, restock.key, restock.sku, restock.quantity)
    return row is not None


async def used_key(conn: Connection, restock: Restock) -> Restock | None:
    """Read the restock that used the same key before."""
    row = await conn.fetchrow(
        "select user_id, key, sku, quantity from restocks where user_id = $1 and key = $2", restock.user_id, restock.key
    )
    return None if row is None else Restock(**row)


async def restock(conn: Connection, sku: str, quantity: int) -> Stock | None:
    """Add available units. Returns the new stock, or None if the sku is unknown or there would be too many units."""
    row = await conn.fetchrow(_RESTOCK, sku, quantity, MAX_UNITS)
    return None if row is None else Stock(**row)


async def get(conn: Connection, sku: str) -> Stock | None:
    """Read the stock of one sku."""
    row = await conn.fetchrow("select sku, available, held, sold from stock where sku = $1", sku)
    return None if row is None else Stock(**row)


async def forget_tombstones(conn: Connection) -> int:
    """Delete tombstones of 30 days, a thousand at most: no event about their orders can come any more."""
    are_old = "status in ('CONFIRMED', 'CANCELLED') and created_at < now() - interval '30 days'"
    return await postgres.delete_some(conn, "reservations", are_old)


async def forget_restocks(conn: Connection) -> int:
    """Delete keys of restocks of 30 days, a thousand at most. A request that is repeated later adds units again."""
    return await postgres.delete_some(conn, "restocks", "created_at < now() - interval '30 days'")


async def books(conn: Connection, first: int | None, last: int | None) -> dict[str, int]:
    """Count the orders of these ids whose units are sold, and their units."""
    row = await postgres.one(
        conn,
        "select count(*) as count, coalesce(sum(quantity), 0) as units from reservations "
        "where order_id between $1 and $2 and status = 'SOLD'",
        first or 0,
        last or 0,
    )
    return {"count": row["count"], "units": row["units"]}


async def describe(conn: Connection, key: str) -> dict[str, Any] | None:
    """Read the whole row of the reservation with this key, for administrators."""
    return await postgres.row_of_id(conn, "reservations", "order_id", key)


def _reservation(row: Any) -> Reservation:
    return Reservation(
        row["order_id"], row["sku"], row["quantity"], Status(row["status"]), row["reason"], row["version"]
    )
