"""Every SQL statement of the orders service."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from orders.domain import Order, Product, Request, Status
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres.connections import Connection

_COLUMNS = (
    "id, user_id, note, status, sku, quantity, product, created_at, amount_cents, currency, reason, version, expires_at"
)

# Says: each of these orders exists, with the event that says so, or neither. What is not returned was there before,
# by its id (this is a repetition after a lost COMMIT) or by its idempotency key; an insert still under way elsewhere
# is waited for. Rows come sorted by user and key, or two batches could deadlock on the unique index.
_PLACE = f"""
with placed as (
  insert into orders (id, user_id, note, status, sku, quantity, product, created_at, amount_cents, currency, version,
                      expires_at, idempotency_key)
  select id, user_id, note, 'PENDING', sku, quantity, product::jsonb, created_at, amount_cents, currency, 1,
         expires_at, idempotency_key
    from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::timestamptz[],
                $8::bigint[], $9::text[], $10::timestamptz[], $11::text[])
         r(id, user_id, note, sku, quantity, product, created_at, amount_cents, currency, expires_at, idempotency_key)
  on conflict do nothing returning id),
published as ({outbox.insert_sql(12, "row.key in (select id::text from placed)")})
select id from placed
"""

# Two branches, each by its own index: with OR between them Postgres reads the whole table.
_FIND = f"""
select {_COLUMNS}, idempotency_key from orders where id = any($1)
union all
select found.* from unnest($2::text[], $3::text[]) wanted(by, key) cross join lateral (
  select {_COLUMNS}, idempotency_key from orders where user_id = wanted.by and idempotency_key = wanted.key) found
"""

# The one guard of "only one final status wins": a row that is not PENDING any more is not touched, and nothing is said
# of it. `= any` keeps to the index whichever join is planned.
_FINISH = f"""
with finished as (
  update orders o set status = c.status, reason = c.reason, version = c.version, updated_at = now()
    from unnest($1::bigint[], $2::text[], $3::text[], $4::int[]) c(id, status, reason, version)
   where o.id = c.id and o.id = any($1) and o.status = 'PENDING' returning o.id)
{outbox.insert_sql(5, "row.key in (select id::text from finished)")}
"""

# An event older than what is known changes nothing.
_REPLICATE = """
insert into products (sku, product_id, name, price_cents, currency, active, version)
select * from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bool[], $7::int[])
on conflict (sku) do update set product_id = excluded.product_id, name = excluded.name,
   price_cents = excluded.price_cents, currency = excluded.currency, active = excluded.active,
   version = excluded.version
 where products.version < excluded.version
"""


async def take_ids(conn: Connection, count: int) -> list[int]:
    """Take ids that nobody else will have."""
    rows = await conn.fetch("select nextval('orders_id_seq') from generate_series(1, $1::int)", count)
    return [row[0] for row in rows]


async def place(
    conn: Connection, orders: Sequence[Order], keys: Sequence[str | None], events: Sequence[Encoded]
) -> set[int]:
    """Insert orders with their events, in one statement; returns the ids of those that were not there before."""
    columns = zip(
        *(
            (
                *(o.id, o.user_id, o.note, o.sku, o.quantity, orjson.dumps(o.product).decode(), o.created_at),
                *(o.amount_cents, o.currency, o.expires_at, key),
            )
            for o, key in zip(orders, keys, strict=True)
        ),
        strict=True,
    )
    return {row[0] for row in await conn.fetch(_PLACE, *columns, *outbox.columns(events))}


async def find(conn: Connection, requests: Iterable[Request]) -> list[tuple[Order, str | None]]:
    """Find the orders that were placed for these requests before, by id or by key, with their keys."""
    wanted = [(r.order_id, r.user_id, r.idempotency_key) for r in requests]
    ids, users, keys = zip(*wanted, strict=True)
    return [(_order(row), row["idempotency_key"]) for row in await conn.fetch(_FIND, ids, users, keys)]


async def get(conn: Connection, ids: Sequence[int]) -> dict[int, Order]:
    """Read orders; those that do not exist are not in the answer."""
    rows = await conn.fetch(f"select {_COLUMNS} from orders where id = any($1)", ids)
    return {row["id"]: _order(row) for row in rows}


async def finish(conn: Connection, orders: Sequence[Order], events: Sequence[Encoded]) -> None:
    """Make PENDING orders final and say so, in the caller's transaction, which holds their keys' locks."""
    columns = zip(*((o.id, o.status, o.reason, o.version) for o in orders), strict=True)
    await conn.execute(_FINISH, *columns, *outbox.columns(events))


async def final(conn: Connection, ids: Sequence[int]) -> list[Order]:
    """Read those of these orders that are final."""
    rows = await conn.fetch(f"select {_COLUMNS} from orders where id = any($1) and status <> 'PENDING'", ids)
    return [_order(row) for row in rows]


async def overdue(conn: Connection, limit: int) -> list[int]:
    """Find orders that are still PENDING after their deadline, the oldest first."""
    rows = await conn.fetch(
        "select id from orders where status = 'PENDING' and expires_at < now() order by expires_at limit $1", limit
    )
    return [row[0] for row in rows]


async def page(conn: Connection, filters: dict[str, Any], before: int, limit: int) -> list[Order]:
    """List orders, newest first, from below an id; `filters` are columns and the values that they must have."""
    wheres = "".join(f" and {column} = ${n}" for n, column in enumerate(filters, start=3))
    sql = f"select {_COLUMNS} from orders where id < $1{wheres} order by id desc limit $2"
    return [_order(row) for row in await conn.fetch(sql, before, limit, *filters.values())]


async def products(conn: Connection, skus: Sequence[str]) -> dict[str, Product]:
    """Read lines of the catalogue's replica."""
    rows = await conn.fetch(
        "select product_id, sku, name, price_cents, currency, active, version from products where sku = any($1)", skus
    )
    return {row["sku"]: Product(*row) for row in rows}


async def sku_of(conn: Connection, product_id: int) -> str | None:
    """Read the sku of a product of the replica."""
    found: str | None = await conn.fetchval("select sku from products where product_id = $1", product_id)
    return found


async def replicate(conn: Connection, products: Sequence[Product]) -> None:
    """Take over lines of the catalogue that are newer than what is known; at most one per sku."""
    rows = [(p.sku, p.product_id, p.name, p.price_cents, p.currency, p.active, p.version) for p in products]
    await conn.execute(_REPLICATE, *zip(*rows, strict=True))


def _order(row: Any) -> Order:
    id_, user_id, note, status, *rest = row[:13]
    return Order(id_, user_id, note, Status(status), *rest)
