"""What the payments service says about an order's money, on `payments.events`, keyed by the order's id."""

from typing import Literal

from contracts.event import Event
from contracts.fields import Cents, Id, Text

TOPIC = "payments.events"

FailReason = Literal["payment_declined", "deadline_passed"]


class PaymentSucceeded(Event, topic=TOPIC, key_field="order_id"):
    """The provider captured the whole amount of an order, once."""

    order_id: Id
    amount_cents: Cents
    currency: Text
    provider_ref: Text


class PaymentFailed(Event, topic=TOPIC, key_field="order_id"):
    """No money was taken for an order, and none will be."""

    order_id: Id
    reason: FailReason


class PaymentRefunded(Event, topic=TOPIC, key_field="order_id"):
    """Money that was taken for an order, cancelled meanwhile, went back."""

    order_id: Id
    amount_cents: Cents
    currency: Text
    provider_ref: Text
