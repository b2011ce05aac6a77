"""Every SQL statement of the products service."""

from collections.abc import Sequence
from typing import Any

from products.domain import Product
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres.connections import Connection

_COLUMNS = "id, sku, name, price_cents, currency, active, version"

# Only who holds the lock of the sku writes its row, so what was read before is what is replaced here.
_CHANGE = f"""
with changed as (
  update products set name = $2, price_cents = $3, active = $4, version = $5, updated_at = now()
   where id = $1 returning sku)
{outbox.insert_sql(6, "row.key in (select sku from changed)")}
"""


async def add(conn: Connection, sku: str, name: str, price_cents: int, currency: str, active: bool) -> Product | None:
    """Insert a product; None when there is one with this sku. One that is under way elsewhere is waited for."""
    row = await conn.fetchrow(
        "insert into products (sku, name, price_cents, currency, active) values ($1, $2, $3, $4, $5) "
        f"on conflict (sku) do nothing returning {_COLUMNS}",
        *(sku, name, price_cents, currency, active),
    )
    return _product(row)


async def get(conn: Connection, product_id: int) -> Product | None:
    """Read one product."""
    return _product(await conn.fetchrow(f"select {_COLUMNS} from products where id = $1", product_id))


async def change(conn: Connection, product: Product, events: Sequence[Encoded]) -> None:
    """Store a product as it now is and say so, in the caller's transaction, which holds the lock of the sku."""
    p = product
    await conn.execute(_CHANGE, p.id, p.name, p.price_cents, p.active, p.version, *outbox.columns(events))


async def page(conn: Connection, after: int, limit: int) -> list[Product]:
    """List active products by their ids, from above one."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from products where id > $1 and active order by id limit $2", after, limit
    )
    return [Product(*row) for row in rows]


def _product(row: Any) -> Product | None:
    return None if row is None else Product(*row)
