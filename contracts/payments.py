"""What the payments service says about an order's money, on `payments.events`, keyed by the order's id."""

from typing import ClassVar, Literal

from pydantic import BaseModel

from contracts.fields import EVENT, Cents, Id, Text, Version

TOPIC = "payments.events"

FailReason = Literal["payment_declined", "deadline_passed"]


class PaymentSucceeded(BaseModel):
    """The provider captured the whole amount of an order, once."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    amount_cents: Cents
    currency: Text
    provider_ref: Text


class PaymentFailed(BaseModel):
    """No money was taken for an order, and none will be."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    reason: FailReason


class PaymentRefunded(BaseModel):
    """Money that was taken for an order, cancelled meanwhile, went back."""

    model_config = EVENT
    topic: ClassVar[str] = TOPIC
    key_field: ClassVar[str] = "order_id"

    version: Version
    order_id: Id
    amount_cents: Cents
    currency: Text
    provider_ref: Text
