"""Every SQL statement of the products service."""

from collections.abc import Sequence

from products.domain import Product
from shared.delivery import outbox
from shared.delivery.events import Encoded
from shared.postgres import Connection

_COLUMNS = "id, sku, name, price_cents, currency, active, version"

# A product and its events are inserted together, or neither: no row is returned if the sku exists.
_ADD = f"""
with added as (
  insert into products (id, sku, name, price_cents, currency, active, version) values ($1, $2, $3, $4, $5, $6, $7)
  on conflict (sku) do nothing returning id, sku),
published as ({outbox.insert_sql(8, "row.key in (select sku from added)")})
select id from added
"""

# The row is written only under the lock of the sku, so the row that was read before is the row that is replaced.
_CHANGE = f"""
with changed as (
  update products set name = $2, price_cents = $3, active = $4, version = $5, updated_at = now()
   where id = $1 returning sku)
{outbox.insert_sql(6, "row.key in (select sku from changed)")}
"""


async def next_id(conn: Connection) -> int:
    """Take an id from the sequence."""
    product_id: int = await conn.fetchval("select nextval('products_id_seq')")
    return product_id


async def add(conn: Connection, product: Product, events: Sequence[Encoded]) -> bool:
    """Insert a product with its events.

    False if the sku exists. An insert that is under way elsewhere is waited for.
    """
    p = product
    values = (p.id, p.sku, p.name, p.price_cents, p.currency, p.active, p.version)
    return await conn.fetchval(_ADD, *values, *outbox.columns(events)) is not None


async def get(conn: Connection, product_id: int) -> Product | None:
    """Read one product."""
    row = await conn.fetchrow(f"select {_COLUMNS} from products where id = $1", product_id)
    return None if row is None else Product(**row)


async def change(conn: Connection, product: Product, events: Sequence[Encoded]) -> None:
    """Store a product and append events, in the caller's transaction, which holds the lock of the sku."""
    p = product
    await conn.execute(_CHANGE, p.id, p.name, p.price_cents, p.active, p.version, *outbox.columns(events))


async def page(conn: Connection, after: int, limit: int) -> list[Product]:
    """List active products with ids above `after`, in the order of ids."""
    rows = await conn.fetch(
        f"select {_COLUMNS} from products where id > $1 and active order by id limit $2", after, limit
    )
    return [Product(**row) for row in rows]
