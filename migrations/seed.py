"""The example catalogue and its stock. Rows that exist already are not changed."""

import asyncpg

from contracts.products import ProductCreated
from shared import postgres
from shared.delivery import outbox
from shared.postgres import Connection

# product id, sku, name, price in cents, units in stock
CATALOGUE = (
    (1, "burger", "Burger", 850, 1_000_000),
    (2, "pizza", "Pizza", 1200, 1_000_000),
    (3, "fries", "Fries", 350, 1_000_000),
    (4, "sushi", "Sushi", 1800, 1_000_000),
    (5, "lobster", "Lobster", 6000, 0),
)


async def run(url: str) -> None:
    """Fill the replica of the catalogue in orders, the stock in inventory, and the catalogue itself in products.

    The catalogue comes last, because it publishes events: inventory creates a stock of 0 for a product without stock.
    """
    conn = await asyncpg.connect(url, timeout=10)
    try:
        await conn.executemany(
            "insert into orders.products (product_id, sku, name, price_cents, currency, active, version) "
            "values ($1, $2, $3, $4, 'EUR', true, 1) on conflict do nothing",
            [row[:4] for row in CATALOGUE],
        )
        await conn.executemany(
            "insert into inventory.stock (sku, available) values ($1, $2) on conflict do nothing",
            [(sku, units) for _, sku, _, _, units in CATALOGUE],
        )
        async with conn.transaction():
            await _publish(conn)
    finally:
        await conn.close()


async def _publish(conn: Connection) -> None:
    """Add the catalogue as the products service does, with an event for each new product."""
    await conn.execute("set local role products_user; set local search_path to products")
    await postgres.lock_keys(conn, [sku for _, sku, _, _, _ in CATALOGUE])
    added = await conn.fetch(
        "insert into products (id, sku, name, price_cents) "
        "select * from unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[]) on conflict do nothing "
        "returning version, id as product_id, sku, name, price_cents, currency, active",
        *postgres.columns([row[:4] for row in CATALOGUE], 4),
    )
    await outbox.append(conn, [ProductCreated(**row) for row in added])
    if added:
        await conn.execute("set local role products_owner")
        await conn.execute(
            "select setval('products_id_seq', greatest(max(id), (select last_value from products_id_seq))) "
            "from products"
        )
