"""What the products service says about the catalogue, on `products.events`, keyed by the sku."""

from contracts.event import Event
from contracts.fields import Id, Price, Text

TOPIC = "products.events"


class ProductCreated(Event, topic=TOPIC, key_field="sku"):
    """A product entered the catalogue."""

    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool


class ProductChanged(Event, topic=TOPIC, key_field="sku"):
    """A product is as described from this version on."""

    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool
