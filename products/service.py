"""The use cases of products: add to the catalogue, change, look up. Who writes holds the lock of the sku."""

from collections.abc import Mapping
from typing import Any

from products import domain, store
from products.domain import Product
from shared import errors
from shared.delivery import events, outbox
from shared.postgres.connections import Connection


class ProductNotFound(errors.NotFound):
    """No product has this id."""

    def __init__(self) -> None:
        super().__init__("not found")


async def create(conn: Connection, sku: str, name: str, price_cents: int, *, active: bool) -> Product:
    """Add a product to the catalogue, and say so. Raises `Conflict` when there is one with this sku."""
    product = await store.add(conn, sku, name, price_cents, domain.CURRENCY, active)
    if product is None:
        raise errors.Conflict(f"there is a product {sku} already")
    await outbox.append(conn, [domain.created(product)])
    return product


async def change(conn: Connection, product_id: int, values: Mapping[str, Any], version: int | None = None) -> Product:
    """Give a product's fields new values, and say so if that changes it.

    Raises `ProductNotFound`, or `Conflict` when a `version` is given that it does not have (any more).
    """
    before = await get(conn, product_id)
    if version not in (None, before.version):
        raise errors.Conflict(f"the product is at version {before.version}")
    after, facts = domain.change(before, values)
    if facts:
        await store.change(conn, after, [events.encode(fact) for fact in facts])
    return after


async def get(conn: Connection, product_id: int) -> Product:
    """Read one product. Raises `ProductNotFound`."""
    product = await store.get(conn, product_id)
    if product is None:
        raise ProductNotFound
    return product
