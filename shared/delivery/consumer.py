"""The consumer: a batch of records becomes one transaction with its inbox rows, its effects and its own events.

What must stay true: effects and inbox rows commit together, before the Kafka offset does; trouble with Postgres never
parks an event; and an event that cannot be handled is parked, with what follows it under the same key, never lost.
The pattern is the idempotent consumer (Richardson, 2018), done for a batch at a time.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from pydantic import BaseModel

from shared import metrics
from shared.delivery import events, inbox, kafka, parking
from shared.delivery.events import Received, Record, Undecodable
from shared.delivery.kafka import Subscription
from shared.delivery.parking import Parked
from shared.errors import UnknownAggregate
from shared.postgres import connections as db
from shared.postgres.connections import Connection, Pool
from shared.process.backoff import Backoff

log = structlog.get_logger()

Handler = Callable[[Connection, list[Any]], Awaitable[None]]

MAX_ATTEMPTS = 3
_MAX_CHUNK = 2000
_POLL_SECONDS = 0.5
_REJOIN_AFTER_SECONDS = 60.0

TROUBLE = (*db.ERRORS, kafka.Unavailable)


class TryAgain(Exception):
    """Some events of a batch failed and have attempts left; the others are done."""


class Handling:
    """What one consumer does with records: everything but where they come from, so that tests can bring their own.

    `handlers` maps event models to functions over lists; each is called in the batch's transaction, with the keys of
    its events locked, and with events of one key in their order. `committed` is called after each commit.
    With `also_lock`, batches take turns with all that lock the same: for handlers that share rows between keys.
    """

    def __init__(
        self,
        pool: Pool,
        consumer: str,
        handlers: Mapping[type[BaseModel], Handler],
        committed: Callable[[], None] = lambda: None,
        also_lock: Sequence[str] = (),
    ) -> None:
        self._pool, self._consumer, self._handlers, self._committed = pool, consumer, handlers, committed
        self._also_lock, self._chunk = also_lock, _MAX_CHUNK
        self._models = {model.__name__: model for model in handlers}
        self._attempts: dict[UUID, int] = {}

    async def handle(self, records: Sequence[Record]) -> None:
        """Handle or park every record. Raises one of `db.ERRORS` or `TryAgain`: then call again with the same ones."""
        understood, hopeless = self._decode(records)
        if hopeless:
            await self._park(hopeless)
        failed: dict[str, BaseException] = {}
        for first in range(0, len(understood), self._chunk):
            try:
                await self._attempt(understood[first : first + self._chunk], failed)
            except (TimeoutError, asyncpg.QueryCanceledError):
                self._chunk = max(1, self._chunk // 2)  # what was too much for one transaction is tried as less
                raise
        self._chunk = _MAX_CHUNK
        if failed:
            raise TryAgain(f"{len(failed)} key(s) failed, the first: {next(iter(failed.items()))!r:.300}")
        self._attempts.clear()

    def _decode(self, records: Sequence[Record]) -> tuple[list[Received], list[Parked]]:
        understood: list[Received] = []
        hopeless: list[Parked] = []
        for record in records:
            try:
                received = self._understand(record)
            except Undecodable as error:
                hopeless.append(Parked(record, str(error), attempts=0, blocks=False))
            else:
                understood += [received] if received else []
        return understood, hopeless

    def _understand(self, record: Record) -> Received | None:
        type_ = events.type_of(record)
        if type_ is None:
            raise Undecodable("header ce_type is missing")
        model = self._models.get(type_)
        if model is None:
            metrics.CONSUMED.labels("skipped").inc()  # somebody else's business, or newer than this code
            return None
        received = events.decode(record, model)
        if not inbox.acceptable(received.event_id):
            raise Undecodable(f"ce_id {received.event_id} is no UUIDv7 of the last days")
        return received

    async def _attempt(self, batch: list[Received], failed: dict[str, BaseException]) -> None:
        """Commit the batch as a whole, or halve it until what fails stands alone."""
        batch = [r for r in batch if _lane(r) not in failed]
        if not batch:
            return
        try:
            await self._commit(batch)
        except Exception as error:
            if db.is_transient(error):
                raise
            unknown = error.events if isinstance(error, UnknownAggregate) else []
            strange = [r for r in batch if any(r.event is e for e in unknown)]
            if strange:
                await self._park([Parked(r.record, str(error), 1, blocks=False, event_id=r.event_id) for r in strange])
                await self._attempt([r for r in batch if r not in strange], failed)
            elif len(batch) > 1:
                middle = len(batch) // 2
                await self._attempt(batch[:middle], failed)
                await self._attempt(batch[middle:], failed)
            else:
                await self._fail(batch[0], error, failed)

    async def _fail(self, one: Received, error: Exception, failed: dict[str, BaseException]) -> None:
        attempts = self._attempts[one.event_id] = self._attempts.get(one.event_id, 0) + 1
        log.warning("event failed", type=type(one.event).__name__, key=one.key, attempts=attempts, exc_info=error)
        if attempts < MAX_ATTEMPTS:
            failed[_lane(one)] = error
        else:
            await self._park([Parked(one.record, repr(error), attempts, blocks=True, event_id=one.event_id)])

    async def _commit(self, batch: list[Received]) -> None:
        keys = sorted({r.key for r in batch})
        token = events.traces.set(events.traces_of(batch))
        try:
            async with db.transaction(self._pool, [*keys, *self._also_lock]) as conn:
                claim = await inbox.claim(conn, self._consumer, [r.event_id for r in batch], keys)
                fresh = list({r.event_id: r for r in batch if r.event_id in claim.fresh}.values())  # in first places
                behind = [r for r in fresh if _lane(r) in claim.blocked]
                if behind:
                    waiting = "waits behind an earlier event of its key"
                    rows = [Parked(r.record, waiting, 0, blocks=True, event_id=r.event_id) for r in behind]
                    await parking.park(conn, self._consumer, rows)
                for wave in waves([r for r in fresh if _lane(r) not in claim.blocked]):
                    for model, found in wave.items():
                        await self._handlers[model](conn, found)
        finally:
            events.traces.reset(token)
        self._committed()
        metrics.CONSUMER_BATCH.observe(len(batch))
        metrics.CONSUMED.labels("handled").inc(len(fresh) - len(behind))
        metrics.CONSUMED.labels("duplicate").inc(len(batch) - len(fresh))

    async def _park(self, parked: list[Parked]) -> None:
        keys = {one.key for one in parked}
        async with db.transaction(self._pool, keys) as conn:
            ids = [one.event_id for one in parked if one.event_id is not None]
            await inbox.claim(conn, self._consumer, ids, [])
            await parking.park(conn, self._consumer, parked)
        self._committed()
        metrics.CONSUMED.labels("parked").inc(len(parked))
        for one in parked:
            log.error("event parked", topic=one.record.topic, key=one.key, offset=one.record.offset, error=one.error)


def waves(batch: Iterable[Received]) -> list[dict[type[BaseModel], list[BaseModel]]]:
    """Sort events into waves (the k-th event of a key is in wave k) and, within each, by type."""
    seen: dict[str, int] = defaultdict(int)
    found: list[dict[type[BaseModel], list[BaseModel]]] = []
    for received in batch:
        turn = seen[received.key]
        seen[received.key] += 1
        if turn == len(found):
            found.append(defaultdict(list))
        found[turn][type(received.event)].append(received.event)
    return found


def _lane(received: Received) -> str:
    return f"{received.aggregate} {received.key}"


class Consumer:
    """The loop that feeds `Handling` from Kafka, and rejoins the group with a new client after trouble."""

    def __init__(self, subscribe: Callable[[], Subscription], handling: Handling, pace_seconds: float = 0.002) -> None:
        self._subscribe, self._handling, self._pace = subscribe, handling, pace_seconds
        self._subscription: Subscription | None = None
        self._owned_at = 0.0

    async def run(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Consume until `stop`; trouble is waited out, for ever, with back-off and jitter."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                await self.run_once(stop, beat)
                backoff.reset()
            except kafka.Unavailable as error:
                log.warning("consumer lost Kafka, joining anew", error=str(error))
                metrics.CONSUMER_FAILURES.inc()
                await self.close()
                await backoff.wait(stop)
            beat()

    async def run_once(self, stop: asyncio.Event, beat: Callable[[], None] = lambda: None) -> int:
        """Poll once and see the batch through: handled, or lost to a rebalance. Raises `kafka.Unavailable`."""
        subscription = await self._joined()
        batch = await subscription.poll(_POLL_SECONDS)
        started = time.monotonic()
        if batch:
            await self._see_through(subscription, batch, stop, beat)
            await asyncio.sleep(max(0.0, started + self._pace - time.monotonic()))
        await subscription.commit_if_due()
        metrics.CONSUMER_SUCCESS.set_to_current_time()
        return sum(map(len, batch.records.values()))

    async def _see_through(
        self, subscription: Subscription, batch: kafka.Batch, stop: asyncio.Event, beat: Callable[[], None]
    ) -> None:
        backoff = Backoff()
        while not stop.is_set():
            beat()
            try:
                await subscription.handle(batch, self._handling.handle)
            except (*db.ERRORS, TryAgain) as error:
                # The gate is open meanwhile: whoever else is given the partition need not wait for our trouble.
                log.warning("batch not handled, trying again", error=repr(error))
                metrics.CONSUMER_FAILURES.inc()
                await backoff.wait(stop)
            else:
                return

    async def _joined(self) -> Subscription:
        now = time.monotonic()
        if self._subscription is not None:
            if self._subscription.owned:
                self._owned_at = now
            if now - self._owned_at < _REJOIN_AFTER_SECONDS:
                return self._subscription
            await self.close()  # owning nothing for so long may mean that the topics were made anew
        made = self._subscribe()
        try:
            await made.start()
        except BaseException:
            await made.close()
            raise
        self._subscription, self._owned_at = made, now
        return made

    async def close(self) -> None:
        """Commit what was handled and leave the group."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()
