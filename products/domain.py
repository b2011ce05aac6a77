"""Products, their transitions and their events. A sku never changes, and no version is used twice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from contracts.products import ProductChanged, ProductCreated
from shared.delivery.events import Event

CURRENCY = "EUR"


@dataclass(frozen=True, slots=True)
class Product:
    """A product of the catalogue. If it is not `active`, it cannot be bought."""

    id: int
    sku: str
    name: str
    price_cents: int
    currency: str
    active: bool
    version: int


def create(product_id: int, sku: str, name: str, price_cents: int, *, active: bool) -> Product:
    """A new product, at version 1."""
    return Product(product_id, sku, name, price_cents, CURRENCY, active, version=1)


def created(product: Product) -> ProductCreated:
    """The event of a new product."""
    return ProductCreated(**_described(product))


def change(before: Product, values: Mapping[str, Any]) -> tuple[Product, list[Event]]:
    """Change fields. Values that are the same change nothing and have no event."""
    if replace(before, **values) == before:
        return before, []
    after = replace(before, **values, version=before.version + 1)
    return after, [ProductChanged(**_described(after))]


def _described(product: Product) -> dict[str, Any]:
    fields = asdict(product)
    return fields | {"product_id": fields.pop("id")}
