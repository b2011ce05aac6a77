"""The tutorial's catalogue and stock; what is there already stays as it is."""

import asyncpg

# product id, sku, name, price in cents, units in stock
CATALOGUE = (
    (1, "burger", "Burger", 850, 1_000_000),
    (2, "pizza", "Pizza", 1200, 1_000_000),
    (3, "fries", "Fries", 350, 1_000_000),
    (4, "sushi", "Sushi", 1800, 1_000_000),
    (5, "lobster", "Lobster", 6000, 0),
)


async def run(url: str) -> None:
    """Fill the replica of the catalogue in orders, and the stock in inventory."""
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
    finally:
        await conn.close()
