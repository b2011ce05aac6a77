"""The events of the payments service about an order's money, on `payments.events`. The key is the order id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Amount, Currency, OrderId, ProviderRef

TOPIC = "payments.events"

FailReason = Literal["payment_declined", "deadline_passed"]


class PaymentSucceeded(Event, topic=TOPIC, key_field="order_id"):
    """The provider captured the whole amount of an order, once."""

    order_id: OrderId
    amount_cents: Amount
    currency: Currency
    provider_ref: ProviderRef


class PaymentFailed(Event, topic=TOPIC, key_field="order_id"):
    """No money was taken for an order, and none will be taken."""

    order_id: OrderId
    reason: FailReason
    """Why no money was taken."""


class PaymentRefunded(Event, topic=TOPIC, key_field="order_id"):
    """The money for an order was refunded, because the order was cancelled meanwhile."""

    order_id: OrderId
    amount_cents: Amount
    currency: Currency
    provider_ref: ProviderRef
