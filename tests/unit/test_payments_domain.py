from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from contracts.inventory import InventoryReserved
from contracts.payments import PaymentFailed, PaymentRefunded, PaymentSucceeded
from payments import domain
from payments.domain import Call, Captured, Claim, Declined, GivenBack, Outcome, Payment, Status, Unanswered

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
CLAIM, OTHER_CLAIM = Claim(7, LATER), Claim(8, LATER)
OUTCOMES: tuple[Outcome, ...] = (
    Captured("ch_1", 1700, "EUR"),
    Declined(),
    GivenBack("ch_1"),
    GivenBack(None),
    Unanswered(LATER),
)
FINAL = (Status.FAILED, Status.CANCELLED, Status.REFUNDED)


def payment(status: Status, *, cancel_requested: bool = False) -> Payment:
    version = {Status.PENDING: 0, Status.CANCELLED: 0, Status.REFUNDED: 2}.get(status, 1)
    ref = None if status in {Status.PENDING, Status.FAILED, Status.CANCELLED} else "ch_1"
    made = Payment(1, status, 1700, "EUR", LATER, CLAIM, cancel_requested=cancel_requested)
    return replace(made, provider_ref=ref, version=version)


PENDING, CANCEL_REQUESTED = payment(Status.PENDING), payment(Status.PENDING, cancel_requested=True)
REFUNDING = payment(Status.REFUNDING, cancel_requested=True)

SETTLED = {
    (PENDING, Captured("ch_1", 1700, "EUR")): (Status.SUCCEEDED, "ch_1", [PaymentSucceeded]),
    (PENDING, Declined()): (Status.FAILED, None, [PaymentFailed]),
    (PENDING, GivenBack("ch_1")): (Status.FAILED, "ch_1", [PaymentFailed]),
    (PENDING, GivenBack(None)): (Status.FAILED, None, [PaymentFailed]),
    (PENDING, Unanswered(LATER)): (Status.PENDING, None, []),
    (CANCEL_REQUESTED, Captured("ch_1", 1700, "EUR")): (Status.PENDING, "ch_1", []),
    (CANCEL_REQUESTED, Declined()): (Status.CANCELLED, None, []),
    (CANCEL_REQUESTED, GivenBack("ch_1")): (Status.CANCELLED, "ch_1", []),
    (CANCEL_REQUESTED, GivenBack(None)): (Status.CANCELLED, None, []),
    (CANCEL_REQUESTED, Unanswered(LATER)): (Status.PENDING, None, []),
    (REFUNDING, GivenBack("ch_1")): (Status.REFUNDED, "ch_1", [PaymentRefunded]),
    (REFUNDING, GivenBack(None)): (Status.REFUNDED, "ch_1", [PaymentRefunded]),
    (REFUNDING, Captured("ch_1", 1700, "EUR")): (Status.REFUNDING, "ch_1", []),
    (REFUNDING, Declined()): (Status.REFUNDING, "ch_1", []),
    (REFUNDING, Unanswered(LATER)): (Status.REFUNDING, "ch_1", []),
}


@pytest.mark.parametrize(("before", "outcome"), SETTLED)
def test_an_outcome_settles_an_open_payment(before: Payment, outcome: Outcome) -> None:
    status, ref, kinds = SETTLED[before, outcome]
    after, events = domain.settle(before, outcome)
    assert (after.status, after.provider_ref, [type(event) for event in events]) == (status, ref, kinds)
    assert after.version == before.version + len(events)
    assert [event.version for event in events] == [after.version] * len(events)
    assert (after.attempts, after.claim.token) == (isinstance(outcome, Unanswered), CLAIM.token)


@pytest.mark.parametrize(("status", "outcome"), list(product([Status.SUCCEEDED, *FINAL], OUTCOMES)))
def test_a_payment_that_waits_for_no_answer_ignores_answers(status: Status, outcome: Outcome) -> None:
    before = payment(status)
    assert domain.settle(before, outcome) == (before, [])


def test_a_failed_payment_has_its_reason() -> None:
    reasons = [domain.settle(PENDING, outcome)[0].reason for outcome in (Declined(), GivenBack(None))]
    assert reasons == ["payment_declined", "deadline_passed"]


def test_an_unanswered_call_is_retried_at_its_time() -> None:
    after, _ = domain.settle(PENDING, Unanswered(NOW))
    assert (after.claim, after.attempts) == (Claim(CLAIM.token, NOW), 1)


def test_a_cancelled_order_is_not_charged_or_is_refunded() -> None:
    assert domain.cancel(PENDING, OTHER_CLAIM) == CANCEL_REQUESTED
    refunding = domain.cancel(payment(Status.SUCCEEDED), OTHER_CLAIM)
    assert refunding == replace(REFUNDING, claim=OTHER_CLAIM)


@pytest.mark.parametrize("before", [CANCEL_REQUESTED, REFUNDING, *map(payment, FINAL)])
def test_a_repeated_or_late_cancellation_changes_nothing(before: Payment) -> None:
    assert domain.cancel(before, OTHER_CLAIM) == before


def test_an_intent_after_the_deadline_fails_at_once() -> None:
    fields = {"version": 1, "order_id": 1, "user_id": "u1", "sku": "burger", "quantity": 2, "currency": "EUR"}
    reserved = InventoryReserved(**fields, amount_cents=1700, expires_at=LATER)
    assert domain.intend(reserved, CLAIM, NOW) == (replace(PENDING, user_id="u1"), [])
    after, events = domain.intend(reserved, CLAIM, LATER)
    assert (after.status, events) == (Status.FAILED, [PaymentFailed(version=1, order_id=1, reason="deadline_passed")])


CALLS = {
    PENDING: (Call.CHARGE, Call.VOID),
    CANCEL_REQUESTED: (Call.VOID, Call.VOID),
    REFUNDING: (Call.REFUND, Call.REFUND),
    **{payment(status): (None, None) for status in (Status.SUCCEEDED, *FINAL)},
}


@pytest.mark.parametrize("waiting", CALLS)
def test_no_charge_starts_after_the_deadline_or_for_a_cancelled_order(waiting: Payment) -> None:
    assert (domain.next_call(waiting, NOW), domain.next_call(waiting, LATER)) == CALLS[waiting]


def test_a_tombstone_is_final() -> None:
    assert domain.tombstone(1, NOW).status is Status.CANCELLED
    assert {p.status for p in CALLS} == set(Status)
