"""What the products service says about the catalogue, on `products.events`, keyed by the sku."""

from typing import ClassVar

from pydantic import BaseModel

from contracts.fields import EVENT, Id, Price, Text, Version

TOPIC = "products.events"


class ProductCreated(BaseModel):
    """A product entered the catalogue."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "sku"

    version: Version
    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool


class ProductChanged(BaseModel):
    """A product is as described from this version on."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "sku"

    version: Version
    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool
