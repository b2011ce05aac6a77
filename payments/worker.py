"""The calls to the provider. No transaction is open during a call: the intent commits before it, the outcome after it.

What must stay true: a caller holds the payment's claim, and an outcome counts only under the claim of its call. The
table has the whole state, so a crash loses nothing: a claim that is not settled in time is taken over.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import getrandbits, uniform
from typing import Protocol

import structlog
from prometheus_client import Counter, Gauge

from payments import domain, service, store
from payments.domain import Answer, Call, Claim, NoAnswer, Odd, Outcome, Payment, Unanswered
from shared import metrics, postgres, tracing
from shared.postgres import Pool
from shared.process.backoff import Backoff, wait
from shared.process.loop import Beat

log = structlog.get_logger()

CALLS = Counter("payments_provider_calls_total", "Calls to the provider, by what they reported", ["call", "outcome"])
OLDEST = Gauge("payments_oldest_open_seconds", "Age of the oldest payment that waits for the provider")
QUARANTINED = Counter("payments_quarantined_total", "Payments that an operator has to look at")

_WAITING_PER_CALL = 4
_MAX_BATCH = 500  # bounds the key locks of one transaction
_UNSTORABLE_IN_A_ROW = 5
_MEASURE_SECONDS = 10.0
_LONGEST_POLL = 0.5  # also how long a stop may go unnoticed
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=5)


class Provider(Protocol):
    """A payment provider. Every method can raise `NoAnswer`, and can be repeated."""

    async def charge(self, key: str, amount_cents: int, currency: str) -> Answer:
        """Take the money, once per key, however often it is called."""

    async def get(self, key: str) -> Answer | None:
        """The outcome of the key. None is not an outcome: the first request may still be on its way."""

    async def void(self, key: str) -> Answer:
        """Make later charges of this key fail, and refund a charge already made."""

    async def refund(self, key: str) -> Answer:
        """Refund the charge."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many calls run at once, and how long each may take."""

    calls_at_once: int = 256
    call_seconds: float = 3.0
    poll_seconds: float = 0.2
    pace_seconds: float = 0.02
    """The least time between two turns. At 100 payments a second it saves a quarter of their cost."""

    @property
    def claim_seconds(self) -> float:
        """After this time, another worker may take over.

        The time is enough to wait for a slow call, to call, and to record the outcome.
        """
        return 3 * self.call_seconds + 1


class Worker:
    """Calls the provider for open payments, many at once, and records the outcomes in batches.

    Payments that this process's consumer claims are passed in memory (`claim`, `stage`, `committed`) and are read again
    before the call. All others (left by another process, postponed, or without room here) are found in the table.
    """

    def __init__(
        self,
        pool: Pool,
        provider: Provider,
        committed: Callable[[], None] = lambda: None,
        *,
        limits: Limits | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool, self._provider, self._committed, self.now = pool, provider, committed, now
        self._limits = limits or Limits()
        self._max_waiting = self._limits.calls_at_once * _WAITING_PER_CALL
        self._call_time = timedelta(seconds=self._limits.call_seconds)
        self._claim_time = timedelta(seconds=self._limits.claim_seconds)
        self._staged: list[tuple[int, int]] = []
        self._handed: list[tuple[int, int]] = []
        self._ready: deque[Payment] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._outcomes: deque[tuple[Payment, Outcome]] = deque()
        self._woken = asyncio.Event()
        self._poll_at = self._measure_at = 0.0
        self._poll_seconds = self._limits.poll_seconds
        """How long to wait between two looks at the table: longer while nothing is found."""
        self._batch = _MAX_BATCH
        self._unstorable = 0

    def claim(self, count: int) -> Claim:
        """Create a claim for `count` payments.

        Without room for these payments, the claim is over at once, so that any worker may take them.
        """
        waiting = len(self._staged) + len(self._handed) + len(self._ready)
        if waiting + count > self._max_waiting:
            return Claim(0, self.now())
        return Claim(getrandbits(63), self.now() + self._claim_time)

    def stage(self, claim: Claim, order_ids: Sequence[int]) -> None:
        """Note the payments that a transaction claims. If it fails, `service.claimed` will not find them."""
        if claim.token:
            self._staged += [(order_id, claim.token) for order_id in order_ids]
        else:
            self._poll_at = 0.0

    def committed(self) -> None:
        """Call it after a commit: the staged payments are in the table, unless their transaction failed."""
        self._handed += self._staged
        self._staged.clear()
        self._woken.set()

    async def run_once(self) -> int:
        """Take payments, call, wait for an answer or a wake-up, record. Returns how many payments are not finished."""
        await self._take_handed()
        await self._take_due()
        self._start_calls()
        if self._calls and not self._outcomes and not self._handed:
            await self._wait()
        await self._record()
        return len(self._handed) + len(self._ready) + len(self._calls) + len(self._outcomes)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Work until `stop` is set, then until all taken payments are finished. Trouble with Postgres is retried."""
        in_hand, backoff = 0, Backoff()
        try:
            while in_hand or not stop.is_set():
                beat()
                started = time.monotonic()
                if stop.is_set():
                    self._poll_at = math.inf
                try:
                    in_hand = await self.run_once()
                    backoff.reset()
                except (*postgres.ERRORS, ValueError) as error:
                    log.warning("payments cannot be taken or recorded, trying again", error=repr(error))
                    await backoff.wait(stop)
                await asyncio.sleep(max(0.0, started + self._limits.pace_seconds - time.monotonic()))
                if not in_hand and not self._handed:
                    await self._wait()
        finally:
            for call in self._calls:
                call.cancel()

    async def _take_handed(self) -> None:
        handed = self._handed[:_MAX_BATCH]
        if handed:
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                self._ready += await service.claimed(conn, handed)
            del self._handed[: len(handed)]

    async def _take_due(self) -> None:
        room = min(_MAX_BATCH, self._max_waiting - len(self._ready) - len(self._handed))
        if room <= 0 or time.monotonic() < self._poll_at:
            return
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            order_ids = await store.due(conn, self.now(), room)
            if time.monotonic() >= self._measure_at:
                self._measure_at = time.monotonic() + _MEASURE_SECONDS
                metrics.set_age(OLDEST, await store.oldest_open(conn))
        if order_ids:
            async with postgres.transaction(self._pool) as conn:
                self._ready += await service.take_over(conn, order_ids, self.claim(0), self.now())
        shortest = self._limits.poll_seconds
        self._poll_seconds = shortest if order_ids else max(shortest, min(_LONGEST_POLL, 2 * self._poll_seconds))
        self._poll_at = time.monotonic() + (self._poll_seconds if len(order_ids) < room else 0.0)

    def _start_calls(self) -> None:
        now = self.now()
        while self._ready and len(self._calls) < self._limits.calls_at_once:
            payment = self._ready.popleft()
            call = domain.next_call(payment, now)
            if (
                call and payment.claim.until >= now + self._call_time
            ):  # otherwise it will be taken over, perhaps by this worker
                task = asyncio.create_task(self._call(payment, call))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    async def _call(self, payment: Payment, call: Call) -> None:
        span = tracing.start(call, "CLIENT", payment.trace, {tracing.KEY: str(payment.order_id)})
        ids = tracing.ids(span.traceparent if span else None)
        structlog.contextvars.bind_contextvars(key=str(payment.order_id), **ids)  # until this task ends
        outcome = await self._ask(payment, call)
        if span:
            span.end(type(outcome).__name__ if isinstance(outcome, Unanswered | Odd) else None)
            payment = replace(payment, trace=span.traceparent)
        CALLS.labels(call, type(outcome).__name__).inc()
        self._outcomes.append((payment, outcome))
        self._woken.set()

    async def _ask(self, payment: Payment, call: Call) -> Outcome:
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                answer = await self._send(payment, call)
            if outcome := domain.outcome_of(payment, call, answer):
                return outcome
            log.info("the provider has not finished", order_id=payment.order_id, call=call, answer=repr(answer))
        except (NoAnswer, TimeoutError) as error:
            log.info("the provider did not answer", order_id=payment.order_id, call=call, error=repr(error))
        except Exception:
            log.exception("a call to the provider failed", order_id=payment.order_id, call=call)
        pause = min(_FIRST_PAUSE * 2 ** min(payment.attempts, 10), _LONGEST_PAUSE) * uniform(0.5, 1.5)
        return Unanswered(self.now() + pause)

    async def _send(self, payment: Payment, call: Call) -> Answer:
        match call:
            case Call.CHARGE:
                return await self._provider.charge(payment.key, payment.amount_cents, payment.currency)
            case Call.VOID:
                return await self._provider.void(payment.key)
            case Call.REFUND:
                return await self._provider.refund(payment.key)

    async def _record(self) -> None:
        """Record outcomes. One that Postgres cannot store is found by halves, and its payment is quarantined."""
        left = min(len(self._outcomes), _MAX_BATCH)  # later ones wait for the next turn: together they cost less
        while batch := list(islice(self._outcomes, min(left, self._batch))):
            try:
                await self._settle(batch)
            except (*postgres.ERRORS, ValueError) as error:  # ValueError: the event refuses the value
                if postgres.is_too_slow(error) or postgres.is_of_data(error):
                    self._batch = max(1, len(batch) // 2)
                if not postgres.is_of_data(error):
                    raise
                if len(batch) == 1:
                    self._set_aside(error)
            else:
                left -= len(batch)
                self._unstorable = 0 if any(not isinstance(outcome, Odd) for _, outcome in batch) else self._unstorable
                self._batch = min(_MAX_BATCH, self._batch * 2)

    def _set_aside(self, error: Exception) -> None:
        """The first outcome cannot be stored: quarantine its payment. If that is true of many, the release is bad."""
        self._unstorable += 1
        if self._unstorable > _UNSTORABLE_IN_A_ROW:
            self._outcomes.rotate(-1)  # the next attempt is at another one
            raise error
        asked, _ = self._outcomes.popleft()
        self._outcomes.appendleft((asked, Odd(f"the outcome cannot be stored: {error!r:.500}")))

    async def _settle(self, batch: Sequence[tuple[Payment, Outcome]]) -> None:
        keys = [str(asked.order_id) for asked, _ in batch]
        async with postgres.transaction(self._pool, keys) as conn:
            again = await service.settle(conn, batch, self.now(), self.now() + self._claim_time)
        for _ in batch:
            self._outcomes.popleft()
        self._poll_seconds = self._limits.poll_seconds
        self._ready.extendleft(again)
        self._committed()
        for asked, outcome in batch:
            if isinstance(outcome, Odd):
                QUARANTINED.inc()
                log.error("payment quarantined: see docs/operations.md", order_id=asked.order_id, why=outcome.why)

    async def _wait(self) -> None:
        self._woken.clear()
        await wait(self._woken, self._poll_seconds)
