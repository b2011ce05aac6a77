"""Caches of the catalogue's replica."""

import time

from orders import store
from orders.domain import Product
from shared import errors, postgres
from shared.postgres import Connection, Pool

_SECONDS = 1.0
_SIZE = 10_000


class ProductNotFound(errors.NotFound):
    """The replica of the catalogue has no product with this id, or does not have it yet."""


class Catalogue:
    """Products by sku, each remembered for a second. `find` reads on the caller's connection."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Product | None]] = {}

    async def find(self, conn: Connection, skus: set[str]) -> dict[str, Product | None]:
        """The product of each sku, or None if there is none."""
        now = time.monotonic()
        answer = {sku: self._known[sku][1] for sku in skus if self._known.get(sku, (0.0, None))[0] > now}
        if stale := skus - answer.keys():
            found = await store.products(conn, list(stale))  # meanwhile another worker may clear the cache
            if len(self._known) > _SIZE:
                self._known.clear()
            self._known |= {sku: (now + _SECONDS, found.get(sku)) for sku in stale}
            answer |= {sku: found.get(sku) for sku in stale}
        return answer


class Skus:
    """Skus by product id. A product never changes its sku, so the answer is remembered."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._known: dict[int, str] = {}

    async def find(self, product_id: int) -> str:
        """The sku of a product. Raises `ProductNotFound`."""
        if product_id not in self._known:
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                sku = await store.sku_of(conn, product_id)
            if sku is None:
                raise ProductNotFound(f"there is no product {product_id}")
            if len(self._known) >= _SIZE:
                self._known.clear()
            self._known[product_id] = sku
        return self._known[product_id]
