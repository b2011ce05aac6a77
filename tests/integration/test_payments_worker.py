import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from prometheus_client import REGISTRY

from contracts.inventory import InventoryReserved
from contracts.orders import OrderCancelled
from payments import consumer, provider, service, store
from payments.domain import Answer, Captured, Claim, Declined, NoAnswer, Status, Underway
from payments.provider import Faults, SimulatedProvider
from payments.worker import Limits, Provider, Worker
from shared import postgres
from shared.delivery.events import Event
from shared.delivery.handling import Handling
from shared.postgres import Pool
from tests.builders import eventually, record

CLAIM_SECONDS = Limits().claim_seconds


def reserved(order_id: int = 1, **changes: Any) -> InventoryReserved:
    fields: dict[str, Any] = {"version": 1, "order_id": order_id, "user_id": "u1", "sku": "burger", "quantity": 2}
    money = {"amount_cents": 1700, "currency": "EUR", "expires_at": datetime.now(UTC) + timedelta(seconds=55)}
    return InventoryReserved(**(fields | money | changes))


def cancelled(order_id: int = 1) -> OrderCancelled:
    return OrderCancelled(version=2, order_id=order_id, sku="burger", quantity=2, reason="cancelled_by_customer")


Hook = Callable[[str], Awaitable[None]]


async def nothing(_: str) -> None:
    """Do not change the call."""


@dataclass
class Watched:
    """A provider with hooks of the test, which run before a call and before its answer."""

    real: Provider
    before: Hook = nothing
    after: Hook = nothing
    calls: list[str] = field(default_factory=list)

    async def _watch(self, name: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        self.calls.append(name)
        await self.before(name)
        answer = await call()
        await self.after(name)
        return answer

    async def charge(self, key: str, amount_cents: int, currency: str) -> Answer:
        return await self._watch("charge", lambda: self.real.charge(key, amount_cents, currency))

    async def get(self, key: str) -> Answer | None:
        return await self.real.get(key)

    async def void(self, key: str) -> Answer:
        return await self._watch("void", lambda: self.real.void(key))

    async def refund(self, key: str) -> Answer:
        return await self._watch("refund", lambda: self.real.refund(key))


class Shop:
    """One instance of the service after another, with one provider and a clock that only the test moves."""

    def __init__(self, pool: Pool, ledger: Pool, provider: Provider) -> None:
        self.pool, self.ledger, self.provider = pool, ledger, Watched(provider)
        self.time = datetime.now(UTC)
        self.start()

    def start(self, limits: Limits | None = None) -> None:
        """Start again, as after a crash: everything in memory is lost."""
        self.worker = Worker(self.pool, self.provider, limits=limits or Limits(poll_seconds=0), now=lambda: self.time)
        self.handling = Handling(self.pool, "payments", consumer.handlers(self.worker), self.worker.committed)

    async def deliver(self, *events: Event) -> None:
        await self.handling.handle([record(event) for event in events])

    async def work(self) -> None:
        """Run the worker until it has nothing to do now."""
        while await self.worker.run_once():
            pass

    async def settle(self) -> None:
        """Move the clock until no payment waits for the provider."""
        await self.work()
        while await self.pool.fetchval("select count(*) from payments where status in ('PENDING', 'REFUNDING')"):
            self.pass_time(CLAIM_SECONDS)
            await self.work()

    def pass_time(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    async def statuses(self) -> dict[int, str]:
        return dict(await self.pool.fetch("select order_id, status from payments"))

    async def published(self) -> dict[int, list[str]]:
        """The event types of each order, in the order in which relays read them."""
        types: dict[int, list[str]] = {}
        for row in await self.pool.fetch("select key, type from outbox order by xid, id"):
            types.setdefault(int(row["key"]), []).append(row["type"].removeprefix("Payment"))
        return types

    async def movements(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for key, kind in await self.ledger.fetch("select key, kind from movements order by key, n"):
            found.setdefault(int(key.removeprefix("order:")), []).append(kind)
        return found

    async def outcome(self, order_id: int = 1) -> tuple[str | None, list[str], list[str]]:
        """The payment's status, its events, and its movements in the ledger."""
        statuses, published, movements = await self.statuses(), await self.published(), await self.movements()
        return statuses.get(order_id), published.get(order_id, []), movements.get(order_id, [])


@asynccontextmanager
async def running(*loops: Callable[[asyncio.Event], Any]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop(stop))
        yield
        stop.set()


@pytest.fixture
async def pools(payments_db: Any) -> AsyncIterator[tuple[Pool, Pool]]:
    async with (
        postgres.pool(payments_db.url, size=8, name="test") as pool,
        postgres.pool(payments_db.provider_url, size=2, name="test") as ledger,
    ):
        yield pool, ledger


@pytest.fixture
async def shop(payments_db: Any, pools: tuple[Pool, Pool]) -> AsyncIterator[Shop]:
    provider = SimulatedProvider(payments_db.provider_url)
    async with running(provider.run):
        yield Shop(*pools, provider)


NO_MONEY = ([], ["void"], ["capture", "refund"], ["decline"])
HISTORIES = {
    Status.SUCCEEDED: (["Succeeded"], (["capture"],)),
    Status.FAILED: (["Failed"], NO_MONEY),
    Status.CANCELLED: ([], NO_MONEY),
    Status.REFUNDED: (["Succeeded", "Refunded"], (["capture", "refund"],)),
}


async def check(shop: Shop) -> Counter[str]:
    """Check that payments, events and ledger agree on each order; return the number of orders by status."""
    statuses, published, movements = await shop.statuses(), await shop.published(), await shop.movements()
    refs = dict(await shop.pool.fetch("select order_id, provider_ref from payments where provider_ref is not null"))
    captures = await shop.ledger.fetch("select key, ref, amount_cents from movements where kind = 'capture'")
    assert {f"order:{order_id}": ref for order_id, ref in refs.items()} == {row["key"]: row["ref"] for row in captures}
    assert {row["amount_cents"] for row in captures} <= {1700}
    assert movements.keys() <= statuses.keys()
    for order_id, status in statuses.items():
        events, ledgers = HISTORIES[Status(status)]
        assert (status, published.get(order_id, [])) == (status, events), order_id
        assert movements.get(order_id, []) in ledgers, (order_id, status)
    return Counter(statuses.values())


async def test_a_reserved_order_is_charged(shop: Shop) -> None:
    await shop.deliver(reserved())
    assert await shop.outcome() == ("PENDING", [], [])
    await shop.work()
    assert await shop.outcome() == ("SUCCEEDED", ["Succeeded"], ["capture"])
    assert await check(shop) == {"SUCCEEDED": 1}
    value = await shop.pool.fetchval("select convert_from(value, 'utf8')::jsonb from outbox")
    ref = await shop.ledger.fetchval("select ref from movements")
    assert value == {"version": 1, "order_id": 1, "amount_cents": 1700, "currency": "EUR", "provider_ref": ref}


async def test_a_worker_that_finds_nothing_for_hours_goes_on(shop: Shop) -> None:
    shop.start(Limits(poll_seconds=0.0))
    for _ in range(2000):
        await shop.worker.run_once()
    await shop.deliver(reserved())
    await shop.work()
    assert await shop.outcome() == ("SUCCEEDED", ["Succeeded"], ["capture"])


async def test_an_order_whose_id_was_used_before_a_restore_is_charged_its_own_amount(shop: Shop) -> None:
    await shop.deliver(reserved(amount_cents=48_000, payment_reference="of the first"))
    await shop.work()
    await shop.pool.execute("delete from payments")  # as after a restore; the provider remembers
    await shop.deliver(reserved(amount_cents=850, payment_reference="of the second"))
    await shop.work()
    captures = await shop.ledger.fetch("select key, amount_cents from movements order by amount_cents")
    assert [tuple(row) for row in captures] == [("of the second", 850), ("of the first", 48_000)]
    assert await shop.statuses() == {1: "SUCCEEDED"}


async def test_an_order_above_the_limit_is_declined_and_its_cancellation_changes_nothing(shop: Shop) -> None:
    await shop.deliver(reserved(amount_cents=50_001))
    await shop.work()
    assert await shop.pool.fetchval("select reason from payments") == "payment_declined"
    await shop.deliver(cancelled())
    await shop.work()
    assert await shop.outcome() == ("FAILED", ["Failed"], ["decline"])
    assert shop.provider.calls == ["charge"]


async def test_500_charges_are_each_made_once_although_20_percent_fail(
    payments_db: Any, pools: tuple[Pool, Pool]
) -> None:
    faults = Faults(timeout_ratio=0.07, error_ratio=0.07, double_ratio=0.07, seed=1)
    provider = SimulatedProvider(payments_db.provider_url, faults=faults)
    shop = Shop(*pools, provider)
    shop.start(Limits(call_seconds=0.5, poll_seconds=0.02))
    shop.worker.now = lambda: datetime.now(UTC)
    async with running(provider.run, shop.worker.run):
        for first in range(1, 501, 100):
            await shop.deliver(
                *[reserved(n, amount_cents=50_001 if n % 10 == 0 else 1700) for n in range(first, first + 100)]
            )
            await shop.deliver(*[cancelled(n) for n in range(first, first + 100, 3)])

        async def is_settled() -> bool:
            return not set(await shop.statuses()).symmetric_difference(range(1, 501)) and not (
                await shop.pool.fetchval("select count(*) from payments where status in ('PENDING', 'REFUNDING')")
            )

        await eventually(is_settled)
    ends = await check(shop)
    assert ends["SUCCEEDED"] == 300
    assert ends["CANCELLED"] + ends["REFUNDED"] > 100
    assert len(shop.provider.calls) > 520


async def cancel_before_it_is_reserved(shop: Shop) -> None:
    await shop.deliver(cancelled())
    await shop.deliver(reserved())


async def cancel_in_the_same_batch(shop: Shop) -> None:
    await shop.deliver(reserved(), cancelled())


async def cancel_before_the_call(shop: Shop) -> None:
    await shop.deliver(reserved())
    await shop.deliver(cancelled())


async def cancel_before_the_charge_arrives(shop: Shop) -> None:
    shop.provider.before = once("charge", lambda: shop.deliver(cancelled()))
    await shop.deliver(reserved())


async def cancel_before_the_charge_is_answered(shop: Shop) -> None:
    shop.provider.after = once("charge", lambda: shop.deliver(cancelled()))
    await shop.deliver(reserved())


async def cancel_after_a_lost_answer(shop: Shop) -> None:
    shop.provider.after = once("charge", lose_the_answer)
    await shop.deliver(reserved())
    await shop.work()
    await shop.deliver(cancelled())


async def cancel_and_lose_the_answers_to_charge_and_void(shop: Shop) -> None:
    async def lose(name: str) -> None:
        if shop.provider.calls.count(name) == 1:
            await lose_the_answer()

    shop.provider.before = once("charge", lambda: shop.deliver(cancelled()))
    shop.provider.after = lose
    await shop.deliver(reserved())


async def cancel_during_the_decline(shop: Shop) -> None:
    shop.provider.before = once("charge", lambda: shop.deliver(cancelled()))
    await shop.deliver(reserved(amount_cents=50_001))


async def cancel_during_the_void_after_the_deadline(shop: Shop) -> None:
    shop.provider.after = once("charge", lose_the_answer)
    await shop.deliver(reserved())
    await shop.work()
    shop.pass_time(60)
    shop.provider.after = once("void", lambda: shop.deliver(cancelled()))


async def cancel_after_success(shop: Shop) -> None:
    await shop.deliver(reserved())
    await shop.work()
    await shop.deliver(cancelled())


async def cancel_again_during_the_refund(shop: Shop) -> None:
    shop.provider.before = once("refund", lambda: shop.deliver(cancelled()))
    await cancel_after_success(shop)


async def cancel_and_lose_the_answer_to_the_refund(shop: Shop) -> None:
    shop.provider.after = once("refund", lose_the_answer)
    await cancel_after_success(shop)


async def lose_the_answer() -> None:
    raise NoAnswer("lost")


def once(name: str, act: Callable[[], Awaitable[None]]) -> Hook:
    """Run `act` at the first call with this name."""
    left = [name]

    async def hook(called: str) -> None:
        if called in left:
            left.remove(called)
            await act()

    return hook


CANCELLED: tuple[str, list[str]] = ("CANCELLED", [])
REFUNDED = ("REFUNDED", ["Succeeded", "Refunded"])
POINTS = {
    cancel_before_it_is_reserved: (*CANCELLED, []),
    cancel_in_the_same_batch: (*CANCELLED, ["void"]),
    cancel_before_the_call: (*CANCELLED, ["void"]),
    cancel_before_the_charge_arrives: (*CANCELLED, ["capture", "refund"]),
    cancel_before_the_charge_is_answered: (*CANCELLED, ["capture", "refund"]),
    cancel_after_a_lost_answer: (*CANCELLED, ["capture", "refund"]),
    cancel_and_lose_the_answers_to_charge_and_void: (*CANCELLED, ["capture", "refund"]),
    cancel_during_the_decline: (*CANCELLED, ["decline"]),
    cancel_during_the_void_after_the_deadline: (*CANCELLED, ["capture", "refund"]),
    cancel_after_success: (*REFUNDED, ["capture", "refund"]),
    cancel_again_during_the_refund: (*REFUNDED, ["capture", "refund"]),
    cancel_and_lose_the_answer_to_the_refund: (*REFUNDED, ["capture", "refund"]),
}


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
async def test_an_order_cancelled_at_any_point_costs_nothing(
    shop: Shop, point: Callable[[Shop], Awaitable[None]]
) -> None:
    await point(shop)
    await shop.settle()
    await shop.deliver(cancelled())
    await shop.settle()
    assert await shop.outcome() == POINTS[point]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
async def test_events_in_any_order_and_repeated_have_a_consistent_end(shop: Shop, together: bool) -> None:
    kinds = (reserved, cancelled) if together else (reserved, cancelled, None)
    sequences = [
        sequence for length in range(2, 6) for sequence in product(kinds, repeat=length) if set(sequence) == set(kinds)
    ]
    for n, sequence in enumerate(sequences, start=1):
        if together:
            await shop.deliver(*[kind(n) for kind in sequence if kind])
            continue
        for kind in sequence:
            await (shop.deliver(kind(n)) if kind else shop.work())
    await shop.settle()

    statuses = await shop.statuses()
    for n, sequence in enumerate(sequences, start=1):
        charged = sequence.index(reserved)
        in_time = (
            not together
            and charged < sequence.index(cancelled)
            and None in sequence[charged : sequence.index(cancelled)]
        )
        assert statuses[n] == ("REFUNDED" if in_time else "CANCELLED"), sequence
    assert sum((await check(shop)).values()) == len(sequences)
    assert await shop.pool.fetchval("select count(*) from parked") == 0


async def test_the_worker_measures_the_oldest_open_payment(shop: Shop) -> None:
    await shop.deliver(reserved())
    await shop.pool.execute("update payments set created_at = now() - interval '50 s'")
    await shop.work()
    assert (REGISTRY.get_sample_value("payments_oldest_open_seconds") or 0) >= 50
    shop.start()
    await shop.work()
    assert REGISTRY.get_sample_value("payments_oldest_open_seconds") == 0


async def test_old_tombstones_are_forgotten_and_nothing_else(shop: Shop) -> None:
    await shop.deliver(reserved(1), cancelled(2), cancelled(3))
    await shop.work()
    await shop.pool.execute("update payments set created_at = now() - interval '31 days' where order_id <> 3")
    assert [await store.forget_tombstones(shop.pool) for _ in range(2)] == [1, 0]
    assert (await shop.statuses()).keys() == {1, 3}


async def test_a_repeated_record_changes_nothing(shop: Shop) -> None:
    records = [record(reserved(n)) for n in range(1, 4)]
    for batch in (records, records[1:], [*records, *records]):
        await shop.handling.handle(batch)
        await shop.work()
    assert await check(shop) == {"SUCCEEDED": 3}
    assert shop.provider.calls == ["charge"] * 3


async def test_events_that_follow_from_an_event_carry_its_trace(shop: Shop) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    came = record(reserved())
    await shop.handling.handle([came._replace(headers=(*came.headers, ("traceparent", trace.encode())))])
    await shop.work()
    assert (await shop.pool.fetchval("select head from outbox")).endswith(trace.encode())


async def test_an_order_that_arrives_after_its_deadline_is_never_charged(shop: Shop) -> None:
    await shop.deliver(reserved(expires_at=shop.time))
    await shop.work()
    assert await shop.outcome() == ("FAILED", ["Failed"], [])
    assert shop.provider.calls == []


async def test_no_charge_starts_after_the_deadline(shop: Shop) -> None:
    await shop.deliver(reserved(1))
    shop.provider.after = once("charge", lose_the_answer)
    await shop.work()
    await shop.deliver(reserved(2, expires_at=shop.time + timedelta(seconds=1)))
    shop.pass_time(60)
    await shop.settle()
    assert shop.provider.calls == ["charge", "void", "void"]
    assert await shop.outcome(1) == ("FAILED", ["Failed"], ["capture", "refund"])
    assert await shop.outcome(2) == ("FAILED", ["Failed"], ["void"])
    assert set(await shop.pool.fetch("select reason from payments")) == {("deadline_passed",)}


async def test_a_charge_that_is_answered_after_the_deadline_counts(shop: Shop) -> None:
    async def be_slow() -> None:
        shop.pass_time(2)

    shop.provider.before = once("charge", be_slow)
    await shop.deliver(reserved(expires_at=shop.time + timedelta(seconds=1)))
    await shop.work()
    assert await shop.outcome() == ("SUCCEEDED", ["Succeeded"], ["capture"])


async def test_after_a_crash_between_intent_and_call_the_call_is_made_when_the_claim_is_over(shop: Shop) -> None:
    await shop.deliver(reserved())
    shop.start()
    await shop.work()
    assert await shop.outcome() == ("PENDING", [], [])
    shop.pass_time(CLAIM_SECONDS)
    await shop.work()
    assert await shop.outcome() == ("SUCCEEDED", ["Succeeded"], ["capture"])


@pytest.mark.parametrize(
    ("call", "meanwhile", "end"),
    [
        ("charge", "nothing", ("SUCCEEDED", ["Succeeded"], ["capture"])),
        ("charge", "cancelled", ("CANCELLED", [], ["capture", "refund"])),
        ("charge", "expired", ("FAILED", ["Failed"], ["capture", "refund"])),
        ("refund", "nothing", ("REFUNDED", ["Succeeded", "Refunded"], ["capture", "refund"])),
    ],
)
async def test_after_a_crash_between_call_and_result_the_payment_is_settled(
    shop: Shop, call: str, meanwhile: str, end: tuple[str, list[str], list[str]]
) -> None:
    dead = asyncio.Event()

    async def die() -> None:
        dead.set()
        await asyncio.Event().wait()

    await shop.deliver(reserved())
    if call == "refund":
        await shop.work()
        await shop.deliver(cancelled())
    shop.provider.after = once(call, die)
    process = asyncio.create_task(shop.worker.run(asyncio.Event()))
    await dead.wait()
    process.cancel()
    await asyncio.wait([process])

    shop.start()
    if meanwhile == "cancelled":
        await shop.deliver(cancelled())
    shop.pass_time(60 if meanwhile == "expired" else CLAIM_SECONDS)
    await shop.work()
    assert await shop.outcome() == end


async def test_a_worker_that_lost_its_claim_cannot_store_its_late_answer(shop: Shop) -> None:
    frozen, thawed = asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        frozen.set()
        await thawed.wait()

    shop.provider.after = once("charge", freeze)
    await shop.deliver(reserved())
    late = shop.worker
    process = asyncio.create_task(late.run_once())
    await frozen.wait()
    shop.pass_time(60)
    voided = asyncio.Event()

    async def answer_the_late_one_first() -> None:
        voided.set()
        thawed.set()
        await process
        while await late.run_once():
            pass

    shop.start()
    shop.provider.after = once("void", answer_the_late_one_first)
    await shop.work()
    assert voided.is_set()
    assert await shop.outcome() == ("FAILED", ["Failed"], ["capture", "refund"])


async def test_an_intent_that_was_rolled_back_is_not_charged(shop: Shop) -> None:
    async with shop.pool.acquire() as conn:
        transaction = conn.transaction()
        await transaction.start()
        await consumer.handlers(shop.worker)[InventoryReserved](conn, [reserved()])
        await transaction.rollback()
    shop.worker.committed()
    await shop.work()
    assert (await shop.outcome(), shop.provider.calls) == ((None, [], []), [])


async def test_payments_that_do_not_fit_in_memory_are_found_in_the_table(shop: Shop) -> None:
    shop.start(Limits(calls_at_once=0))
    await shop.deliver(*[reserved(n) for n in range(1, 11)])
    await shop.work()
    assert shop.provider.calls == []
    shop.start(Limits(calls_at_once=1, poll_seconds=0))
    await shop.settle()
    assert await check(shop) == {"SUCCEEDED": 10}
    assert shop.provider.calls == ["charge"] * 10


async def test_only_one_of_two_workers_claims_the_same_due_payments(shop: Shop) -> None:
    shop.start(Limits(calls_at_once=0))
    await shop.deliver(*[reserved(n) for n in range(1, 4)])
    found = [await store.due(shop.pool, shop.time, 10) for _ in range(2)]
    taken = []
    for token, order_ids in enumerate(found, start=1):
        async with postgres.transaction(shop.pool) as conn:
            claim = Claim(token, shop.time + timedelta(seconds=1))
            taken.append(await service.take_over(conn, order_ids, claim, shop.time))
    assert [len(payments) for payments in taken] == [3, 0]


async def test_a_call_that_raises_an_unexpected_error_is_retried(shop: Shop) -> None:
    async def explode() -> None:
        raise ZeroDivisionError

    shop.provider.before = once("charge", explode)
    await shop.deliver(reserved())
    await shop.settle()
    assert (await shop.outcome(), len(shop.provider.calls)) == (("SUCCEEDED", ["Succeeded"], ["capture"]), 2)


@pytest.mark.parametrize(
    "answer", [Underway(), Captured("ch_1", 1700, "EUR"), Declined()], ids=lambda answer: type(answer).__name__
)
async def test_a_refund_without_a_final_answer_is_asked_for_again_later_and_later(
    shop: Shop, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.deliver(reserved())
    await shop.work()
    calls = 0

    async def not_yet(key: str) -> Answer:
        nonlocal calls
        calls += 1
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(shop.provider, "refund", not_yet)
        await shop.deliver(cancelled())
        for _ in range(50):
            await shop.worker.run_once()
        assert calls == 1
        for _ in range(600):  # a minute
            shop.pass_time(0.1)
            await shop.work()
        assert 5 < calls < 30
    await shop.settle()
    assert await shop.outcome() == ("REFUNDED", ["Succeeded", "Refunded"], ["capture", "refund"])


ODD = {
    "cannot be stored": lambda amount_cents: Captured("ch_\x00", amount_cents, "EUR"),
    "captured 48000 EUR": lambda amount_cents: Captured("ch_of_another_order", 48_000, "EUR"),
}


@pytest.mark.parametrize("why", ODD)
async def test_an_odd_answer_stops_its_own_payment_and_no_other(
    shop: Shop, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = shop.provider.charge, Counter[str]()

    async def odd(key: str, amount_cents: int, currency: str) -> Answer:
        calls[key] += 1
        answer = await real(key, amount_cents, currency)
        return ODD[why](amount_cents) if key == "order:7" else answer

    monkeypatch.setattr(shop.provider, "charge", odd)
    await shop.deliver(*[reserved(n) for n in range(1, 41)])
    for _ in range(5):
        await shop.work()
        shop.pass_time(CLAIM_SECONDS)

    statuses = await shop.statuses()
    assert {n for n, status in statuses.items() if status != "SUCCEEDED"} == {7}
    assert calls["order:7"] == 1
    assert why in await shop.pool.fetchval("select quarantined from payments where order_id = 7")

    await shop.deliver(cancelled(7))  # the order ends at its deadline; the operator has the money given back
    await shop.pool.execute("update payments set quarantined = null where order_id = 7")
    await shop.settle()
    assert await shop.outcome(7) == ("CANCELLED", [], ["capture", "refund"])


async def test_outcomes_that_can_all_not_be_stored_are_kept_and_not_quarantined(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release is bad, and not the payments."""
    await shop.deliver(*[reserved(n) for n in range(1, 41)])

    async def bad(*_: Any) -> Any:
        raise ValueError("a field of PaymentSucceeded has another type")

    with monkeypatch.context() as patch:
        patch.setattr(service, "settle", bad)
        for _ in range(20):
            with suppress(ValueError):
                await shop.worker.run_once()
    assert await shop.pool.fetchval("select count(*) from payments where quarantined is not null") == 0
    await shop.work()
    statuses = Counter((await shop.statuses()).values())
    assert statuses["SUCCEEDED"] >= 35
    assert len(shop.provider.calls) == 40


async def test_a_charge_that_is_under_way_is_asked_for_again_and_counts_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def underway(*_: object) -> Answer:
        return Underway()

    with monkeypatch.context() as patch:
        patch.setattr(shop.provider, "charge", underway)
        await shop.deliver(reserved())
        await shop.work()
        assert await shop.outcome() == ("PENDING", [], [])
    await shop.settle()
    assert await shop.outcome() == ("SUCCEEDED", ["Succeeded"], ["capture"])


async def test_a_stopped_worker_finishes_its_open_payments(shop: Shop) -> None:
    stop = asyncio.Event()

    async def end() -> None:
        stop.set()

    shop.provider.before = once("charge", end)
    await shop.deliver(*[reserved(n) for n in range(1, 4)])
    await shop.worker.run(stop)
    assert await check(shop) == {"SUCCEEDED": 3}


async def test_no_statement_scans_a_whole_table_even_if_it_was_planned_for_a_small_one(payments_db: Any) -> None:
    statements = {
        payments_db.url: (store._ADD, store._SAVE, store._DUE, store._TAKE_OVER, store._GET),
        payments_db.provider_url: (provider._FIRST, provider._GIVE_BACK, provider._READ),
    }
    for (url, prepared), prepare in product(statements.items(), ["select 1", "analyze"]):
        conn = await postgres.connect(url, plan_cache_mode="force_generic_plan", client_min_messages="error")
        await conn.execute(prepare)
        for n, sql in enumerate(prepared):
            await conn.execute(f"prepare s{n} as {sql}")
            nulls = ", ".join(["null"] * len(set(re.findall(r"\$[0-9]+", sql))))
            plan = "\n".join(row[0] for row in await conn.fetch(f"explain (costs off) execute s{n} ({nulls})"))
            for scan in re.findall(r"Scan .*\b(?:payments|movements).*\n.*", plan):
                assert "Cond: (" in scan, plan
        await conn.close()


async def test_a_cancellation_during_the_recording_of_a_charge_is_not_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording reads the payment and writes it back. The key's lock keeps the cancellation out meanwhile."""
    await shop.deliver(reserved())
    await shop.worker._take_handed()
    shop.worker._start_calls()
    await asyncio.gather(*shop.worker._calls)  # the charge is answered, and not recorded yet
    reading, go_on = asyncio.Event(), asyncio.Event()
    real = store.get

    async def get(conn: Any, order_ids: Any) -> Any:
        found = await real(conn, order_ids)
        if asyncio.current_task() is recording:
            reading.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store, "get", get)
    recording = asyncio.create_task(shop.worker._record())
    await reading.wait()
    cancelling = asyncio.create_task(shop.deliver(cancelled()))
    blocked = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
    await eventually(lambda: shop.pool.fetchval(blocked))
    go_on.set()
    await asyncio.gather(recording, cancelling)
    monkeypatch.undo()

    await shop.settle()
    assert await shop.outcome() == ("REFUNDED", ["Succeeded", "Refunded"], ["capture", "refund"])
