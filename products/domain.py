"""What a product is, how it changes, and what is told of it. A sku never changes, and a version never comes twice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from contracts.products import ProductChanged, ProductCreated
from shared.delivery.events import Event

CURRENCY = "EUR"


@dataclass(frozen=True, slots=True)
class Product:
    """A line of the catalogue; one that is not `active` cannot be bought."""

    id: int
    sku: str
    name: str
    price_cents: int
    currency: str
    active: bool
    version: int


def created(product: Product) -> ProductCreated:
    """Say that it entered the catalogue."""
    return ProductCreated(**_described(product))


def change(before: Product, values: Mapping[str, Any]) -> tuple[Product, list[Event]]:
    """Give fields new values; what they were already is no change, and no news."""
    if replace(before, **values) == before:
        return before, []
    after = replace(before, **values, version=before.version + 1)
    return after, [ProductChanged(**_described(after))]


def _described(product: Product) -> dict[str, Any]:
    fields = asdict(product)
    return fields | {"product_id": fields.pop("id")}
