"""The use cases of products: add to the catalogue, change, read. A writer holds the lock of the sku."""

from collections.abc import Mapping
from typing import Any

from products import domain, store
from products.domain import Product
from shared import errors
from shared.delivery import events
from shared.postgres import Connection


class ProductNotFound(errors.NotFound):
    """No product has this id."""


async def create(conn: Connection, sku: str, name: str, price_cents: int, *, active: bool) -> Product:
    """Add a product to the catalogue, with its event. Raises `Conflict` if the sku exists."""
    product = domain.create(await store.next_id(conn), sku, name, price_cents, active=active)
    if not await store.add(conn, product, [events.encode(domain.created(product))]):
        raise errors.Conflict(f"there is a product {sku} already")
    return product


async def change(conn: Connection, product_id: int, values: Mapping[str, Any], version: int | None = None) -> Product:
    """Change fields of a product, with an event if something changes.

    Raises `ProductNotFound`, or `Conflict` if `version` is given and is not the product's version.
    """
    before = await get(conn, product_id)
    if version not in (None, before.version):
        raise errors.Conflict(f"the product is at version {before.version}")
    after, new = domain.change(before, values)
    if new:
        await store.change(conn, after, [events.encode(event) for event in new])
    return after


async def get(conn: Connection, product_id: int) -> Product:
    """Read one product. Raises `ProductNotFound`."""
    product = await store.get(conn, product_id)
    if product is None:
        raise ProductNotFound
    return product
