"""The events of the products service about the catalogue, on `products.events`. The key is the sku."""

from contracts.event import Event
from contracts.fields import Currency, Name, Price, ProductId, Sku

TOPIC = "products.events"


class ProductCreated(Event, topic=TOPIC, key_field="sku"):
    """A product was added to the catalogue."""

    product_id: ProductId
    sku: Sku
    name: Name
    price_cents: Price
    currency: Currency
    active: bool
    """True if the product can be bought."""


class ProductChanged(Event, topic=TOPIC, key_field="sku"):
    """A product was changed. The fields are its state from this version on."""

    product_id: ProductId
    sku: Sku
    name: Name
    price_cents: Price
    currency: Currency
    active: bool
    """True if the product can be bought."""
