"""The calls to the provider, which may not hold a transaction: intent before, call, outcome after.

What must stay true: whoever calls holds the payment's claim, and an outcome counts only under the claim under which it
was asked for. All there is to know is in the table: memory is lost without loss, and a claim that nobody settles in
time is taken over.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from random import getrandbits, uniform
from typing import Protocol

import structlog

from payments import domain, service, store
from payments.domain import Answer, Call, Claim, NoAnswer, Outcome, Payment, Unanswered
from shared.postgres import connections as db
from shared.postgres.connections import Pool
from shared.process.backoff import Backoff, wait

log = structlog.get_logger()

_WAITING_PER_CALL = 4
_MAX_BATCH = 500  # bounds the key locks of one transaction
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=0.1), timedelta(seconds=5)


class Provider(Protocol):
    """What payments asks of a payment provider. Every method may raise `NoAnswer`, and may be repeated."""

    async def charge(self, key: str, amount_cents: int, currency: str) -> Answer:
        """Take the money, once for this key however often it is asked."""

    async def get(self, key: str) -> Answer | None:
        """Say what became of the key. None is no outcome: the first request may still be on its way."""

    async def void(self, key: str) -> Answer:
        """Make any later charge of this key fail, and give back one already made."""

    async def refund(self, key: str) -> Answer:
        """Give back what was charged."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long."""

    calls_at_once: int = 256
    call_seconds: float = 3.0
    poll_seconds: float = 0.2
    pace_seconds: float = 0.02
    """The least time between two turns: at 100 payments a second it saves a quarter of their cost."""

    @property
    def claim_seconds(self) -> float:
        """When another may take over: a claim outlasts waiting for a slow call, an own call, and its recording."""
        return 3 * self.call_seconds + 1


class Worker:
    """Calls the provider for payments that wait for it, many at once, and records what it says in batches.

    What the consumer claims comes by way of memory (`claim`, `stage`, `committed`) and is read again before the call;
    the rest, what was left by others, postponed, or found no room, is looked for in the table.
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
        self._poll_at = 0.0

    def claim(self, count: int) -> Claim:
        """Make a claim for so many payments; where there is no room for them, one that is over: then any worker may."""
        waiting = len(self._staged) + len(self._handed) + len(self._ready)
        if waiting + count > self._max_waiting:
            return Claim(0, self.now())
        return Claim(getrandbits(63), self.now() + self._claim_time)

    def stage(self, claim: Claim, order_ids: Sequence[int]) -> None:
        """Remember what a transaction claims. It may still fail: then the claim is not found when it is read."""
        if claim.token:
            self._staged += [(order_id, claim.token) for order_id in order_ids]
        else:
            self._poll_at = 0.0

    def committed(self) -> None:
        """Say that what was staged is in the table, if its transaction was the one that committed."""
        self._handed += self._staged
        self._staged.clear()
        self._woken.set()

    async def run_once(self) -> int:
        """Take what waits, call, await an answer or more to do, record; returns how many payments are in hand."""
        await self._take_handed()
        await self._take_due()
        self._start_calls()
        if self._calls and not self._outcomes and not self._handed:
            await self._wait()
        await self._record()
        return len(self._handed) + len(self._ready) + len(self._calls) + len(self._outcomes)

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Work until `stop`, and then until nothing is in hand. Trouble with Postgres is waited out."""
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
                except db.ERRORS as error:
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
            async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
                self._ready += await service.claimed(conn, handed)
            del self._handed[: len(handed)]

    async def _take_due(self) -> None:
        room = min(_MAX_BATCH, self._max_waiting - len(self._ready) - len(self._handed))
        if room <= 0 or time.monotonic() < self._poll_at:
            return
        async with self._pool.acquire(timeout=db.CONNECT_SECONDS) as conn:
            order_ids = await store.due(conn, self.now(), room)
        if order_ids:
            async with db.transaction(self._pool) as conn:
                self._ready += await service.take_over(conn, order_ids, self.claim(0), self.now())
        self._poll_at = time.monotonic() + (self._limits.poll_seconds if len(order_ids) < room else 0.0)

    def _start_calls(self) -> None:
        now = self.now()
        while self._ready and len(self._calls) < self._limits.calls_at_once:
            payment = self._ready.popleft()
            call = domain.next_call(payment, now)
            if call and payment.claim.until >= now + self._call_time:  # else it is taken over, and may be by us
                task = asyncio.create_task(self._call(payment, call))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)

    async def _call(self, payment: Payment, call: Call) -> None:
        self._outcomes.append((payment, await self._ask(payment, call)))
        self._woken.set()

    async def _ask(self, payment: Payment, call: Call) -> Outcome:
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                match call:
                    case Call.CHARGE:
                        return await self._provider.charge(payment.key, payment.amount_cents, payment.currency)
                    case Call.VOID:
                        return await self._provider.void(payment.key)
                    case Call.REFUND:
                        return await self._provider.refund(payment.key)
        except (NoAnswer, TimeoutError) as error:
            log.info("the provider did not answer", order_id=payment.order_id, call=call, error=repr(error))
        except Exception:
            log.exception("a call to the provider failed", order_id=payment.order_id, call=call)
        pause = min(_FIRST_PAUSE * 2 ** min(payment.attempts, 10), _LONGEST_PAUSE) * uniform(0.5, 1.5)
        return Unanswered(self.now() + pause)

    async def _record(self) -> None:
        batch = list(islice(self._outcomes, _MAX_BATCH))
        if batch:
            keys = [str(asked.order_id) for asked, _ in batch]
            async with db.transaction(self._pool, keys) as conn:
                again = await service.settle(conn, batch, self.now() + self._claim_time)
            for _ in batch:
                self._outcomes.popleft()
            self._ready.extendleft(again)
            self._committed()

    async def _wait(self) -> None:
        self._woken.clear()
        await wait(self._woken, self._limits.poll_seconds)
