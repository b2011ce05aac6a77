"""The events of the products service about the catalogue, on `products.events`. The key is the sku."""

from contracts.event import Event
from contracts.fields import Id, Price, Text

TOPIC = "products.events"


class ProductCreated(Event, topic=TOPIC, key_field="sku"):
    """A product was added to the catalogue."""

    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool


class ProductChanged(Event, topic=TOPIC, key_field="sku"):
    """A product was changed. The fields are its state from this version on."""

    product_id: Id
    sku: Text
    name: Text
    price_cents: Price
    currency: Text
    active: bool
