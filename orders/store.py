"""Every SQL statement of the orders service."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson

from orders.domain import Order, Product, Request, Status
from shared import postgres
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection

_COLUMNS = (
    "id, user_id, note, status, sku, quantity, product, created_at, amount_cents, currency, reason, version, "
    "expires_at, payment_reference, trace"
)

# Inserts each order together with its event, or neither. An id that is not returned existed before: either this is a
# repetition after a lost COMMIT, or the idempotency key is used. If another transaction inserts the same id or key, the
# statement waits for that transaction. The rows must be sorted by user and key; otherwise two batches could deadlock on
# the unique index.
_PLACE = f"""
with placed as (
  insert into orders (id, user_id, note, status, sku, quantity, product, created_at, amount_cents, currency, version,
                      expires_at, idempotency_key, payment_reference, trace)
  select id, user_id, note, 'PENDING', sku, quantity, product::jsonb, created_at, amount_cents, currency, 1,
         expires_at, idempotency_key, payment_reference, trace
    from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::timestamptz[],
                $8::bigint[], $9::text[], $10::timestamptz[], $11::text[], $12::text[], $13::text[])
         r(id, user_id, note, sku, quantity, product, created_at, amount_cents, currency, expires_at, idempotency_key,
           payment_reference, trace)
  on conflict do nothing returning id),
published as ({outbox.insert_sql(14, "row.key in (select id::text from placed)")})
select id from placed
"""

# Two SELECTs, each with its own index: with one SELECT and OR, Postgres scans the table.
_FIND = f"""
select {_COLUMNS}, idempotency_key from orders where id = any($1)
union all
select found.* from unnest($2::text[], $3::text[]) wanted(by, key) cross join lateral (
  select {_COLUMNS}, idempotency_key from orders where user_id = wanted.by and idempotency_key = wanted.key) found
"""


def _finishing(guard: str) -> str:
    """The guard of "an order becomes final once": a row that is not PENDING is not changed, and has no event."""
    return f"""
with finished as (
  update orders o set status = c.status, reason = c.reason, version = c.version, updated_at = now()
    from unnest($1::bigint[], $2::text[], $3::text[], $4::int[]) c(id, status, reason, version)
   where o.id = c.id {guard} and o.status = 'PENDING' returning o.id)
{outbox.insert_sql(5, "row.key in (select id::text from finished)")}
"""


# `= any` makes Postgres use the index, whatever join it plans. But a plan that is kept compares each row with each id:
# batches of 1,000 took 170 us for an order, and 20 us without. So a large batch does without: there a scan costs less.
_FEW = 100
_FINISH_FEW, _FINISH_MANY = _finishing("and o.id = any($1)"), _finishing("")

# An older version than the stored one changes nothing.
_REPLICATE = """
insert into products (sku, product_id, name, price_cents, currency, active, version)
select * from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bool[], $7::int[])
on conflict (sku) do update set product_id = excluded.product_id, name = excluded.name,
   price_cents = excluded.price_cents, currency = excluded.currency, active = excluded.active,
   version = excluded.version
 where products.version < excluded.version
"""

# The rows are locked in the order of their ids: two batches that change the same orders cannot deadlock here.
_CLEAR_NOTES = """
with mine as (select id from orders where user_id = any($1::text[]) and note <> '' order by id for no key update)
update orders set note = '', updated_at = now() where id in (select id from mine)
"""

_BOOKS = """
with wanted as (
  select id, status, quantity, amount_cents from orders
   where case when $1::bigint is null then expires_at < now() - interval '1 minute' else id between $1 and $2 end
   order by id desc limit 10000)
select coalesce(min(id), 0) as first, coalesce(max(id), 0) as last,
       count(*) filter (where status = 'CONFIRMED') as count,
       coalesce(sum(quantity) filter (where status = 'CONFIRMED'), 0)::bigint as units,
       coalesce(sum(amount_cents) filter (where status = 'CONFIRMED'), 0)::bigint as cents from wanted
"""


async def take_ids(conn: Connection, count: int) -> list[int]:
    """Take ids from the sequence."""
    rows = await conn.fetch("select nextval('orders_id_seq') as id from generate_series(1, $1::int)", count)
    return [row["id"] for row in rows]


async def place(
    conn: Connection, orders: Sequence[Order], keys: Sequence[str | None], events: Sequence[Encoded]
) -> set[int]:
    """Insert orders with their events, in one statement. Returns the ids of the orders that are new."""
    columns = zip(
        *(
            (
                *(o.id, o.user_id, o.note, o.sku, o.quantity, orjson.dumps(o.product).decode(), o.created_at),
                *(o.amount_cents, o.currency, o.expires_at, key, o.payment_reference, o.trace),
            )
            for o, key in zip(orders, keys, strict=True)
        ),
        strict=True,
    )
    return {row["id"] for row in await conn.fetch(_PLACE, *columns, *outbox.columns(events))}


async def clear_notes(conn: Connection, user_ids: Sequence[str]) -> None:
    """Empty the notes of all orders of these users."""
    await conn.execute(_CLEAR_NOTES, user_ids)


async def has_orders(conn: Connection) -> bool:
    """True if anybody has ordered yet."""
    found: bool = await conn.fetchval("select exists (select from orders)")
    return found


async def find(conn: Connection, requests: Iterable[Request]) -> list[tuple[Order, str | None]]:
    """Find the orders that exist for these requests, by id or by idempotency key. Returns them with their keys."""
    wanted = [(r.order_id, r.user_id, r.idempotency_key) for r in requests]
    ids, users, keys = zip(*wanted, strict=True)
    return [(_order(row), row["idempotency_key"]) for row in await conn.fetch(_FIND, ids, users, keys)]


async def get(conn: Connection, ids: Sequence[int]) -> dict[int, Order]:
    """Read orders by id. Orders that do not exist are left out."""
    rows = await conn.fetch(f"select {_COLUMNS} from orders where id = any($1)", ids)
    return {row["id"]: _order(row) for row in rows}


async def finish(conn: Connection, orders: Sequence[Order], events: Sequence[Encoded]) -> None:
    """Make PENDING orders final and write their events, in the caller's transaction, which holds the keys' locks."""
    columns = zip(*((o.id, o.status, o.reason, o.version) for o in orders), strict=True)
    sql = _FINISH_FEW if len(orders) <= _FEW else _FINISH_MANY
    await conn.execute(sql, *columns, *outbox.columns(events))


async def final(conn: Connection, ids: Sequence[int]) -> list[Order]:
    """Read the orders that are final."""
    rows = await conn.fetch(f"select {_COLUMNS} from orders where id = any($1) and status <> 'PENDING'", ids)
    return [_order(row) for row in rows]


async def overdue(conn: Connection, limit: int) -> list[int]:
    """Find ids of PENDING orders past their deadline, the oldest first."""
    rows = await conn.fetch(
        "select id from orders where status = 'PENDING' and expires_at < now() order by expires_at limit $1", limit
    )
    return [row["id"] for row in rows]


async def oldest_open(conn: Connection) -> datetime | None:
    """When the oldest PENDING order was placed."""
    placed_at: datetime | None = await conn.fetchval(
        "select created_at from orders where status = 'PENDING' order by expires_at limit 1"
    )
    return placed_at


async def open_orders(conn: Connection, most: int, known: int) -> tuple[int, int, int]:
    """How many orders are PENDING, how many of these have ids up to `known`, and the highest id. Counts to `most`."""
    row = await postgres.one(
        conn,
        """
        select count(*) as open, count(*) filter (where id <= $2) as old, coalesce(max(id), 0) as newest
          from (select id from orders where status = 'PENDING' limit $1) pending
        """,
        most,
        known,
    )
    return row["open"], row["old"], row["newest"]


async def database_bytes(conn: Connection) -> int:
    """The size of the whole database on disk."""
    size: int = await conn.fetchval("select pg_database_size(current_database())")
    return size


async def page(conn: Connection, filters: dict[str, Any], before: int, limit: int) -> list[Order]:
    """List orders with ids below `before`, newest first. `filters` maps columns to the values that they must have."""
    wheres = "".join(f" and {column} = ${n}" for n, column in enumerate(filters, start=3))
    sql = f"select {_COLUMNS} from orders where id < $1{wheres} order by id desc limit $2"
    return [_order(row) for row in await conn.fetch(sql, before, limit, *filters.values())]


async def products(conn: Connection, skus: Sequence[str]) -> dict[str, Product]:
    """Read products of the catalogue's replica, by sku."""
    rows = await conn.fetch(
        "select product_id, sku, name, price_cents, currency, active, version from products where sku = any($1)", skus
    )
    return {row["sku"]: Product(**row) for row in rows}


async def sku_of(conn: Connection, product_id: int) -> str | None:
    """Read the sku of a product of the replica, or None."""
    found: str | None = await conn.fetchval("select sku from products where product_id = $1", product_id)
    return found


async def replicate(conn: Connection, products: Sequence[Product]) -> None:
    """Store products whose version is newer than the stored one. `products` has at most one per sku."""
    rows = [(p.sku, p.product_id, p.name, p.price_cents, p.currency, p.active, p.version) for p in products]
    await conn.execute(_REPLICATE, *zip(*rows, strict=True))


async def books(conn: Connection, first: int | None, last: int | None) -> dict[str, int]:
    """Count the CONFIRMED orders of these ids, with their units and their money.

    Without ids, these are the newest ten thousand whose deadline is over since a minute: all services are done with
    them, if nothing was lost.
    """
    row = await postgres.one(conn, _BOOKS, first, last)
    return dict(row)


async def describe(conn: Connection, key: str) -> dict[str, Any] | None:
    """Read the whole row of the order with this key, for administrators."""
    return await postgres.row_of_id(conn, "orders", "id", key)


def _order(row: Any) -> Order:
    """Read by position, because this is a hot loop. The columns are those of `_COLUMNS`."""
    id_, user_id, note, status, *rest = row[:15]
    return Order(id_, user_id, note, Status(status), *rest)
