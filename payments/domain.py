"""Payments and their transitions, which depend on the provider's answers and on cancelled orders.

What must stay true: only an answer of the provider ends PENDING or REFUNDING. PaymentSucceeded means that money is
taken and kept. PaymentRefunded comes only after PaymentSucceeded. PaymentFailed means that no money is kept and the
order still waits. A cancelled order does not wait. If it has no PaymentSucceeded yet, none is published, no refund is
published either, and the payment becomes CANCELLED without an event. So the events of a payment are one of: none;
Succeeded; Failed; Succeeded, then Refunded.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from contracts.inventory import InventoryReserved
from contracts.payments import FailReason, PaymentFailed, PaymentRefunded, PaymentSucceeded
from shared.delivery.events import Event


class Status(StrEnum):
    """PENDING and REFUNDING wait for the provider. SUCCEEDED can become REFUNDING. The others are final."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"


OPEN = (Status.PENDING, Status.REFUNDING)


class Call(StrEnum):
    """A call to the provider."""

    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Captured:
    """The provider holds this money."""

    ref: str
    amount_cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider took nothing, and never will for this key."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The provider holds nothing, and never will for this key. `ref` names the charge that was undone, if any."""

    ref: str | None


@dataclass(frozen=True, slots=True)
class Underway:
    """The provider works on it and has no outcome yet."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The outcome is unknown. The call is repeated at `ask_again_at`."""

    ask_again_at: datetime


@dataclass(frozen=True, slots=True)
class Odd:
    """The provider's answer cannot be true, or cannot be recorded. An operator has to look at this payment."""

    why: str


Result: TypeAlias = Captured | Declined | GivenBack
Answer: TypeAlias = Result | Underway
Outcome: TypeAlias = Result | Unanswered | Odd


class NoAnswer(Exception):
    """The provider did not report an outcome: it timed out, failed, or was not reached."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to call the provider for a payment, until a time. A worker that takes over writes another token.

    An outcome is recorded only under the token of its call. So a slow worker that lost its claim, and still charges,
    cannot record SUCCEEDED while the new holder of the claim voids.
    """

    token: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """The state of a payment. `version` counts the events about it."""

    order_id: int
    status: Status
    amount_cents: int
    currency: str
    expires_at: datetime
    claim: Claim
    cancel_requested: bool = False
    reason: FailReason | None = None
    provider_ref: str | None = None
    version: int = 0
    attempts: int = 0
    trace: str | None = None
    user_id: str | None = None
    quarantined: str | None = None
    """Why no more calls are made for this payment, until an operator has looked at it."""
    payment_reference: str | None = None

    @property
    def key(self) -> str:
        """The provider's idempotency key, the same in every call about this payment."""
        return self.payment_reference or f"order:{self.order_id}"


Change: TypeAlias = tuple[Payment, list[Event]]


def intend(reserved: InventoryReserved, claim: Claim, now: datetime, trace: str | None = None) -> Change:
    """Decide to charge an order. After its deadline no charge starts, and the payment fails at once."""
    payment = Payment(
        order_id=reserved.order_id,
        status=Status.PENDING,
        amount_cents=reserved.amount_cents,
        currency=reserved.currency,
        expires_at=reserved.expires_at,
        claim=claim,
        trace=trace,
        user_id=reserved.user_id,
        payment_reference=reserved.payment_reference,
    )
    return _end_unpaid(payment, "deadline_passed") if now >= reserved.expires_at else (payment, [])


def tombstone(order_id: int, now: datetime) -> Payment:
    """A tombstone: the order was cancelled before its InventoryReserved came. It is never charged."""
    return Payment(order_id, Status.CANCELLED, 0, "", now, Claim(0, now), cancel_requested=True)


def cancel(payment: Payment, claim: Claim) -> Payment:
    """The order is cancelled: a SUCCEEDED payment is refunded, under `claim`; a PENDING payment is marked."""
    match payment.status:
        case Status.PENDING:
            return replace(payment, cancel_requested=True)
        case Status.SUCCEEDED:
            return replace(payment, status=Status.REFUNDING, cancel_requested=True, attempts=0, claim=claim)
        case Status.FAILED | Status.CANCELLED | Status.REFUNDING | Status.REFUNDED:
            return payment


def next_call(payment: Payment, now: datetime) -> Call | None:
    """The next call to the provider, or None.

    An earlier process may have sent a charge and died before it recorded the outcome. So after the deadline, or after a
    cancellation, the payment is voided, and only the answer to that call settles it.
    """
    if payment.quarantined is not None:
        return None
    match payment.status:
        case Status.PENDING:
            return Call.VOID if payment.cancel_requested or now >= payment.expires_at else Call.CHARGE
        case Status.REFUNDING:
            return Call.REFUND
        case Status.SUCCEEDED | Status.FAILED | Status.CANCELLED | Status.REFUNDED:
            return None


def outcome_of(payment: Payment, call: Call, answer: Answer) -> Outcome | None:
    """The outcome that an answer reports, or None if the same call has to be made again later.

    A void or a refund is over when the provider holds no money for the key.
    """
    match answer:
        case Captured(_, amount_cents, currency) if (amount_cents, currency) != (
            payment.amount_cents,
            payment.currency,
        ):
            return Odd(f"asked for {payment.amount_cents} {payment.currency}, captured {amount_cents} {currency}")
        case Captured():
            return answer if call is Call.CHARGE else None
        case Declined():
            return answer if call is not Call.REFUND else None
        case GivenBack():
            return answer
        case Underway():
            return None


def settle(payment: Payment, outcome: Outcome) -> Change:
    """Apply an outcome. A payment that stays open needs another call, unless it is quarantined."""
    if isinstance(outcome, Odd):
        return (replace(payment, quarantined=outcome.why) if payment.status in OPEN else payment), []
    match payment.status:
        case Status.PENDING:
            return _settle_charge(payment, outcome)
        case Status.REFUNDING:
            return _settle_refund(payment, outcome)
        case Status.SUCCEEDED | Status.FAILED | Status.CANCELLED | Status.REFUNDED:
            return payment, []


def _settle_charge(payment: Payment, outcome: Result | Unanswered) -> Change:
    match outcome:
        case Captured(ref=ref):
            taken = replace(payment, provider_ref=ref)
            return (taken, []) if payment.cancel_requested else _move(taken, Status.SUCCEEDED, PaymentSucceeded)
        case Declined():
            return _end_unpaid(payment, "payment_declined")
        case GivenBack(ref):
            return _end_unpaid(replace(payment, provider_ref=ref), "deadline_passed")
        case Unanswered():
            return _postpone(payment, outcome)


def _settle_refund(payment: Payment, outcome: Result | Unanswered) -> Change:
    match outcome:
        case GivenBack():
            return _move(payment, Status.REFUNDED, PaymentRefunded)
        case Captured() | Declined():
            return payment, []
        case Unanswered():
            return _postpone(payment, outcome)


def _move(payment: Payment, status: Status, event: type[PaymentSucceeded | PaymentRefunded]) -> Change:
    after = replace(payment, status=status, version=payment.version + 1)
    published = event(
        version=after.version,
        order_id=after.order_id,
        amount_cents=after.amount_cents,
        currency=after.currency,
        provider_ref=after.provider_ref or "",
    )
    return after, [published]


def _end_unpaid(payment: Payment, reason: FailReason) -> Change:
    if payment.cancel_requested:
        return replace(payment, status=Status.CANCELLED), []
    after = replace(payment, status=Status.FAILED, reason=reason, version=payment.version + 1)
    return after, [PaymentFailed(version=after.version, order_id=after.order_id, reason=reason)]


def _postpone(payment: Payment, outcome: Unanswered) -> Change:
    claim = replace(payment.claim, until=outcome.ask_again_at)
    return replace(payment, attempts=payment.attempts + 1, claim=claim), []
