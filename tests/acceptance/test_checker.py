"""Tests of the checker: it accepts a sound run, and each invariant finds falsified evidence."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import pytest

from contracts.inventory import InventoryReserved
from contracts.orders import OrderConfirmed
from contracts.payments import PaymentSucceeded
from shared.delivery import events
from shared.delivery.events import Event, Record
from tests.acceptance import checker
from tests.acceptance.checker import START, Evidence, Poison, header
from tests.acceptance.client import Call, wrong_answers
from tests.builders import order_confirmed, order_created, record

ID = 7
BODY = {"userId": "u1", "sku": "burger", "quantity": 2, "note": ""}


def call(kind: str = "place", **changes: Any) -> Call:
    fields: dict[str, Any] = {"started": 1.0, "ended": 1.1, "status": 202, "answer": {"id": ID}}
    if kind == "place":
        fields |= {"key": "k", "body": BODY}
    else:
        fields |= {"order_id": ID, "status": 200, "answer": {"status": "CONFIRMED"}}
    return Call(kind, **(fields | changes))


def sound() -> Evidence:
    """The evidence of a run with one confirmed order."""
    published: list[Event] = [
        order_created(ID),
        InventoryReserved.model_validate(order_created(ID).model_dump()),
        PaymentSucceeded(version=1, order_id=ID, amount_cents=1700, currency="EUR", provider_ref="ch_1"),
        order_confirmed(ID),
    ]
    evidence = Evidence(history=[call(), call("get")])
    order = {"id": ID, "user_id": "u1", "sku": "burger", "quantity": 2, "note": "", "idempotency_key": "k"}
    evidence.orders[ID] = order | {"status": "CONFIRMED", "reason": None, "version": 2, "amount_cents": 1700}
    evidence.reservations[ID] = {"sku": "burger", "quantity": 2, "status": "SOLD", "version": 1}
    evidence.payments[ID] = {"status": "SUCCEEDED", "reason": None, "version": 1, "amount_cents": 1700}
    evidence.stock = [{"sku": "burger", "available": START["burger"] - 2, "held": 0, "sold": 2, "restocked": 0}]
    evidence.copies["user"] = ({"5": "ann"}, {"5": "ann"})
    evidence.movements = [{"key": f"order:{ID}", "n": 1, "kind": "capture", "amount_cents": 1700}]
    for event in published:
        publish(evidence, record(event))
    return evidence


def publish(evidence: Evidence, made: Record) -> None:
    id_, type_ = UUID(header(made, "ce_id")), header(made, "ce_type")
    row = {"event_id": id_, "topic": made.topic, "key": str(ID), "type": type_, "value": made.value}
    evidence.outbox.append(row)
    evidence.records.append(made)
    for service in checker.SERVICES:
        if (made.topic, type_) in checker.HANDLED[service]:
            evidence.inbox[service].add(id_)


def first(evidence: Evidence, type_: str) -> int:
    return next(n for n, one in enumerate(evidence.records) if header(one, "ce_type") == type_)


def change(rows: Any, at: Any, **fields: Any) -> None:
    rows[at] = {**rows[at], **fields}


def move_record(evidence: Evidence, type_: str, **fields: Any) -> None:
    n = first(evidence, type_)
    evidence.records[n] = evidence.records[n]._replace(**fields)


POISON = Poison(("orders.events", 3, 99), frozenset({"inventory"}))


def test_sound_run_has_no_complaints() -> None:
    assert checker.complaints(sound()) == []


FALSIFIED: list[tuple[str, Callable[[Evidence], object]]] = [
    ("I1", lambda f: f.orders.clear()),
    ("I1", lambda f: change(f.orders, ID, quantity=3)),
    ("I1", lambda f: change(f.orders, ID, note="x")),
    ("I1", lambda f: f.orders.update({8: {**f.orders[ID], "id": 8}})),
    ("I1", lambda f: f.orders.update({8: {**f.orders[ID], "id": 8, "idempotency_key": "another"}})),
    ("I1", lambda f: f.history.append(call(answer={"id": 8}))),
    ("I1", lambda f: f.history.__setitem__(0, call(status=503, answer={"type": "/problems/refused"}))),
    ("I1", lambda f: f.history.__setitem__(0, call(status=None, connected=False))),
    ("I2", lambda f: change(f.orders, ID, status="PENDING")),
    ("I3", lambda f: f.movements.append(f.movements[0])),
    ("I3", lambda f: f.movements.append({**f.movements[0], "n": 2, "kind": "refund"})),
    ("I3", lambda f: change(f.movements, 0, amount_cents=1)),
    ("I3", lambda f: f.movements.append({**f.movements[0], "key": "order:8"})),
    ("I3", lambda f: change(f.orders, ID, status="CANCELLED")),
    ("I3", lambda f: change(f.payments, ID, status="FAILED", reason="payment_declined")),
    ("I3", lambda f: f.movements.clear()),
    ("I3", lambda f: change(f.orders, ID, payment_reference="another")),
    ("I4", lambda f: change(f.stock, 0, available=START["burger"])),
    ("I4", lambda f: change(f.stock, 0, available=START["burger"] + 1, held=-3, sold=2)),
    ("I4", lambda f: change(f.reservations, ID, status="HELD")),
    ("I4", lambda f: change(f.reservations, ID, quantity=3)),
    ("I4", lambda f: change(f.stock, 0, restocked=1)),
    ("I4", lambda f: f.restocks.append({"key": "r", "sku": "burger", "quantity": 1})),
    ("I4", lambda f: f.history.append(call("restock", key="r", body={"sku": "burger", "quantity": 1}))),
    ("I5", lambda f: f.copies.update(user=({"5": "ann"}, {}))),
    ("I5", lambda f: f.copies.update(user=({"5": None}, {"5": "ann"}))),
    ("I5", lambda f: f.reservations.clear()),
    ("I5", lambda f: change(f.reservations, ID, status="RELEASED")),
    ("I5", lambda f: change(f.payments, ID, status="PENDING")),
    ("I5", lambda f: change(f.orders, ID, status="CANCELLED")),
    ("I5", lambda f: f.payments.update({8: f.payments[ID]})),
    ("I6", lambda f: move_record(f, "OrderConfirmed", offset=-1)),
    ("I6", lambda f: move_record(f, "OrderConfirmed", partition=1)),
    ("I6", lambda f: f.records.pop(first(f, "OrderConfirmed"))),
    ("I6", lambda f: f.records.pop(first(f, "OrderCreated"))),
    ("I6", lambda f: publish(f, record(order_confirmed(ID, version=4)))),
    ("I6", lambda f: change(f.orders, ID, status="CANCELLED")),
    ("I7", lambda f: f.records.pop(first(f, "InventoryReserved"))),
    ("I7", lambda f: f.outbox.pop()),
    ("I7", lambda f: move_record(f, "OrderCreated", value=b"{}" + (f.records[0].value or b""))),
    ("I7", lambda f: f.records.append(record(order_created(8)))),
    ("I8", lambda f: f.inbox["payments"].clear()),
    ("I8", lambda f: f.inbox["orders"].add(UUID(int=1))),
    ("I8", lambda f: change(f.payments, ID, version=2)),
    ("I8", lambda f: publish(f, record(order_confirmed(ID, version=3)))),
    ("I9", lambda f: f.history.append(call("get", started=2.0, ended=2.1, answer={"status": "PENDING"}))),
    ("I9", lambda f: f.history.append(call("get", started=2.0, ended=2.1, status=404, answer={}))),
    ("I9", lambda f: f.history.append(call("get", started=0.5, ended=0.6, answer={"status": "CANCELLED"}))),
    ("I9", lambda f: f.history.append(call("cancel", status=202))),
    ("I10", lambda f: f.poison.append(POISON)),
    ("I10", lambda f: f.parked.append(parked("inventory", POISON))),
    ("I10", lambda f: (f.poison.append(POISON), f.parked.append(parked("inventory", POISON)))),  # no dead letter
    ("I10", lambda f: (f.poison.append(POISON), f.parked.append(parked("payments", POISON)))),
    ("I11", lambda f: f.history.append(call("get", caller="u2", answer={"id": ID, "userId": "u1"}))),
    ("I11", lambda f: f.history.append(call("get", caller="", answer={"id": ID, "userId": "u1"}))),
    ("I11", lambda f: f.history.append(call("list", caller="u2", answer={"orders": [{"userId": "u1"}]}))),
    ("I11", lambda f: f.history.append(call("payment", caller="u2", answer={"order_id": ID}))),
    ("I11", lambda f: f.history.append(call("profile", caller="6", answer={"id": 5, "display_name": ""}))),
]


def parked(consumer: str, poison: Poison) -> dict[str, Any]:
    topic, partition, offset = poison.position
    about = {"event_id": None, "type": "OrderConfirmed", "error": "the handler failed", "blocks": False}
    return {"consumer": consumer, "topic": topic, "partition": partition, "offset": offset, **about}


@pytest.mark.parametrize(("invariant", "falsify"), FALSIFIED, ids=[f"{one[0]}-{n}" for n, one in enumerate(FALSIFIED)])
def test_each_invariant_finds_falsified_evidence(invariant: str, falsify: Callable[[Evidence], object]) -> None:
    evidence = sound()
    falsify(evidence)
    check = next(one for one in checker.INVARIANTS if one.__name__.startswith(f"{invariant.lower()}_"))
    assert [one.split(":")[0] for one in check(evidence)][:1] == [invariant]


def test_a_dead_letter_for_each_parked_record_satisfies_i10() -> None:
    evidence = sound()
    evidence.poison.append(POISON)
    evidence.parked.append(parked("inventory", POISON))
    publish(evidence, dead_letter("inventory", POISON.position))
    assert checker.complaints(evidence) == []


def dead_letter(consumer: str, position: checker.Position) -> Record:
    value = orjson.dumps({"consumer": consumer} | dict(zip(("topic", "partition", "offset"), position, strict=True)))
    static = events.static_headers("DeadLetter", "/test")
    letter = events.envelope(f"{position[0]}.dlq", str(ID), "DeadLetter", value)
    return Record(letter.topic, 0, 0, 0, b"7", value, list(events.headers(static, b"7", letter.head)))


class OrderNoted(OrderConfirmed, topic="orders.events", key_field="order_id"):
    pass


def upgraded() -> Evidence:
    """The evidence of a run with an event of a new type, which inventory handled and payments parked."""
    evidence = sound()
    evidence.new_types.add(("orders.events", "OrderNoted"))
    made = record(OrderNoted(version=3, order_id=ID, sku="burger", quantity=2))
    publish(evidence, made)
    change(evidence.orders, ID, version=3)
    id_ = UUID(header(made, "ce_id"))
    for service in ("inventory", "payments"):
        evidence.inbox[service].add(id_)
    row = parked("payments", Poison(made[:3], frozenset()))
    evidence.parked.append({**row, "event_id": id_, "type": "OrderNoted", "error": "unknown_type: OrderNoted"})
    publish(evidence, dead_letter("payments", made[:3]))
    return evidence


def test_an_event_of_a_new_type_may_be_handled_or_parked() -> None:
    assert checker.complaints(upgraded()) == []


NOT_ALONE: list[tuple[str, Callable[[Evidence], object]]] = [
    ("I6", lambda f: f.new_types.clear()),
    ("I8", lambda f: f.inbox["inventory"].remove(f.parked[0]["event_id"])),
    ("I8", lambda f: f.inbox["payments"].remove(f.parked[0]["event_id"])),
    ("I10", lambda f: change(f.parked, 0, blocks=True)),
    ("I10", lambda f: change(f.parked, 0, error="the handler failed")),
    ("I10", lambda f: f.parked.append({**f.parked[0], "offset": 98})),
    ("I10", lambda f: f.records.pop()),
]


@pytest.mark.parametrize(("invariant", "falsify"), NOT_ALONE, ids=[f"{one[0]}-{n}" for n, one in enumerate(NOT_ALONE)])
def test_an_event_of_a_new_type_is_parked_alone_and_once(invariant: str, falsify: Callable[[Evidence], object]) -> None:
    evidence = upgraded()
    falsify(evidence)
    assert invariant in {one.split(":")[0] for one in checker.complaints(evidence)}


@pytest.mark.parametrize(
    ("changes", "is_wrong"),
    [
        ({"status": 500}, True),
        ({"status": 502}, True),
        ({"status": 503, "answer": {"type": "/problems/refused"}}, True),
        ({"status": 503, "answer": {"type": "/problems/refused"}, "retry_after": "1"}, False),
        ({"status": 503, "answer": {"type": "/problems/unavailable"}, "retry_after": "1"}, True),
        ({"status": 422}, False),
        ({"status": None}, False),
    ],
)
def test_every_5xx_is_wrong_except_an_expected_503(changes: dict[str, Any], is_wrong: bool) -> None:
    assert bool(wrong_answers([call(**changes)])) is is_wrong
