"""What a payment is and may become, given what the provider says and whether its order was cancelled.

What must stay true: every way out of PENDING and REFUNDING is an answer of the provider's, and what is published is
what is so: PaymentSucceeded when money is taken and kept, PaymentRefunded only after it, PaymentFailed when nothing is
kept although the order still waits for an answer. A cancelled order waits for none: if its money was never announced,
giving it back (or never taking it) is not announced either, and the payment is CANCELLED without an event. So the
events of a payment are one of: none, Succeeded, Failed, Succeeded and Refunded.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from contracts.inventory import InventoryReserved
from contracts.payments import FailReason, PaymentFailed, PaymentRefunded, PaymentSucceeded
from shared.delivery.events import Event


class Status(StrEnum):
    """PENDING and REFUNDING wait for the provider; SUCCEEDED may yet become REFUNDING; the rest is final."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"


OPEN = (Status.PENDING, Status.REFUNDING)


class Call(StrEnum):
    """What is to be asked of the provider."""

    CHARGE = "charge"
    VOID = "void"
    REFUND = "refund"


@dataclass(frozen=True, slots=True)
class Captured:
    """The provider holds the money."""

    ref: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider took nothing, and never will for this key."""


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The provider holds nothing, and never will for this key; `ref` names the charge that was undone, if one was."""

    ref: str | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Nobody knows what the provider did; it is asked again at the given time."""

    ask_again_at: datetime


Answer: TypeAlias = Captured | Declined | GivenBack
Outcome: TypeAlias = Answer | Unanswered


class NoAnswer(Exception):
    """The provider did not say what it did: it timed out, failed half-way, or could not be reached."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to call the provider for a payment, until a time. Whoever takes over writes another token.

    An outcome is recorded only under the token under which it was asked for: a worker that was given up for dead and
    still charges cannot say SUCCEEDED while its successor voids.
    """

    token: int
    until: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as it stands; `version` counts the events that were published about it."""

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

    @property
    def key(self) -> str:
        """The idempotency key under which the provider knows the payment, in every call about it."""
        return f"order:{self.order_id}"


Change: TypeAlias = tuple[Payment, list[Event]]


def intend(reserved: InventoryReserved, claim: Claim, now: datetime, trace: str | None = None) -> Change:
    """Decide to charge an order; after its deadline no charge starts, and as none ever did, it fails at once."""
    payment = Payment(
        order_id=reserved.order_id,
        status=Status.PENDING,
        amount_cents=reserved.amount_cents,
        currency=reserved.currency,
        expires_at=reserved.expires_at,
        claim=claim,
        trace=trace,
        user_id=reserved.user_id,
    )
    return _end_unpaid(payment, "deadline_passed") if now >= reserved.expires_at else (payment, [])


def tombstone(order_id: int, now: datetime) -> Payment:
    """Remember that an order was cancelled before anything was known to charge, so that nothing ever is."""
    return Payment(order_id, Status.CANCELLED, 0, "", now, Claim(0, now), cancel_requested=True)


def cancel(payment: Payment, claim: Claim) -> Payment:
    """Its order was cancelled: money that is taken goes back, under the claim given; a call under way hears of it."""
    match payment.status:
        case Status.PENDING:
            return replace(payment, cancel_requested=True)
        case Status.SUCCEEDED:
            return replace(payment, status=Status.REFUNDING, cancel_requested=True, attempts=0, claim=claim)
        case Status.FAILED | Status.CANCELLED | Status.REFUNDING | Status.REFUNDED:
            return payment


def next_call(payment: Payment, now: datetime) -> Call | None:
    """Say what to ask the provider now.

    A charge may have been sent before, by somebody who did not live to record it: so when none may start any more,
    whatever was charged is voided, and only that answer settles the payment.
    """
    match payment.status:
        case Status.PENDING:
            return Call.VOID if payment.cancel_requested or now >= payment.expires_at else Call.CHARGE
        case Status.REFUNDING:
            return Call.REFUND
        case Status.SUCCEEDED | Status.FAILED | Status.CANCELLED | Status.REFUNDED:
            return None


def settle(payment: Payment, outcome: Outcome) -> Change:
    """Take over what the provider said. A payment that stays open needs another call."""
    match payment.status:
        case Status.PENDING:
            return _settle_charge(payment, outcome)
        case Status.REFUNDING:
            return _settle_refund(payment, outcome)
        case Status.SUCCEEDED | Status.FAILED | Status.CANCELLED | Status.REFUNDED:
            return payment, []


def _settle_charge(payment: Payment, outcome: Outcome) -> Change:
    match outcome:
        case Captured(ref):
            taken = replace(payment, provider_ref=ref)
            return (taken, []) if payment.cancel_requested else _move(taken, Status.SUCCEEDED, PaymentSucceeded)
        case Declined():
            return _end_unpaid(payment, "payment_declined")
        case GivenBack(ref):
            return _end_unpaid(replace(payment, provider_ref=ref), "deadline_passed")
        case Unanswered():
            return _postpone(payment, outcome)


def _settle_refund(payment: Payment, outcome: Outcome) -> Change:
    match outcome:
        case GivenBack():
            return _move(payment, Status.REFUNDED, PaymentRefunded)
        case Captured() | Declined():
            return payment, []
        case Unanswered():
            return _postpone(payment, outcome)


def _move(payment: Payment, status: Status, event: type[PaymentSucceeded | PaymentRefunded]) -> Change:
    after = replace(payment, status=status, version=payment.version + 1)
    fact = event(
        version=after.version,
        order_id=after.order_id,
        amount_cents=after.amount_cents,
        currency=after.currency,
        provider_ref=after.provider_ref or "",
    )
    return after, [fact]


def _end_unpaid(payment: Payment, reason: FailReason) -> Change:
    if payment.cancel_requested:
        return replace(payment, status=Status.CANCELLED), []
    after = replace(payment, status=Status.FAILED, reason=reason, version=payment.version + 1)
    return after, [PaymentFailed(version=after.version, order_id=after.order_id, reason=reason)]


def _postpone(payment: Payment, outcome: Unanswered) -> Change:
    claim = replace(payment.claim, until=outcome.ask_again_at)
    return replace(payment, attempts=payment.attempts + 1, claim=claim), []
