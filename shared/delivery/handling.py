"""Handling: a batch of records becomes one transaction with inbox rows, effects, and the events that follow.

What must stay true: effects and inbox rows commit together, before the Kafka offset. An unavailable Postgres never
parks an event. An event that cannot be handled is parked, together with the later events of its key, and never lost.
The pattern is the idempotent consumer (Richardson, 2018), for a batch at a time.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from pydantic import BaseModel

from .. import metrics, postgres, tracing
from ..errors import UnknownAggregate
from ..postgres import Connection, Pool
from . import events, inbox, parking
from .events import Key, Received, Record, Undecodable
from .parking import Parked

log = structlog.get_logger()

Handler = Callable[[Connection, list[Any]], Awaitable[None]]
"""`handler(conn, events)`: the effects of a list of events of one type, in the transaction of the batch."""

MAX_ATTEMPTS = 3
_MAX_CHUNK = 2000


class TryAgain(Exception):
    """Some events of the batch failed and have attempts left. The others are done."""


class Handling:
    """What one consumer does with records. It does not know Kafka, so tests can call it directly.

    `handlers` maps event models to handlers. Each handler is called in the transaction of the batch, which holds the
    locks of the events' keys. A handler gets the events of one key in their order. `committed` is called after each
    commit. Handlings with the same `also_lock` take turns; use it if handlers share rows between keys.
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
        """Handle or park every record. After `postgres.ERRORS` or `TryAgain`, call it again with the same records."""
        understood, hopeless = self._decode(records)
        if hopeless:
            await self._park(hopeless)
        failed: dict[Key, BaseException] = {}
        for first in range(0, len(understood), self._chunk):
            try:
                await self._attempt(understood[first : first + self._chunk], failed)
            except (TimeoutError, asyncpg.QueryCanceledError):
                self._chunk = max(1, self._chunk // 2)  # the next attempt uses smaller transactions
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
            metrics.CONSUMED.labels("skipped").inc()  # not for this service, or newer than this code
            return None
        received = events.decode(record, model)
        if not inbox.acceptable(received.event_id):
            raise Undecodable(f"ce_id {received.event_id} is no UUIDv7 of the last days")
        return received

    async def _attempt(self, batch: list[Received], failed: dict[Key, BaseException]) -> None:
        """Commit the batch as a whole, or halve it until a failing event is alone."""
        batch = [r for r in batch if r.blocking_key not in failed]
        if not batch:
            return
        try:
            await self._commit(batch)
        except Exception as error:
            if postgres.is_transient(error):
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

    async def _fail(self, one: Received, error: Exception, failed: dict[Key, BaseException]) -> None:
        attempts = self._attempts[one.event_id] = self._attempts.get(one.event_id, 0) + 1
        log.warning("event failed", type=type(one.event).__name__, key=one.key, attempts=attempts, exc_info=error)
        if attempts < MAX_ATTEMPTS:
            failed[one.blocking_key] = error
        else:
            await self._park([Parked(one.record, repr(error), attempts, blocks=True, event_id=one.event_id)])

    async def _commit(self, batch: list[Received]) -> None:
        keys = sorted({r.key for r in batch})
        with tracing.carrying(events.traceparents_of(batch)):
            async with postgres.transaction(self._pool, [*keys, *self._also_lock]) as conn:
                added = await inbox.add(conn, self._consumer, [r.event_id for r in batch], keys)
                fresh = list({r.event_id: r for r in batch if r.event_id in added.fresh}.values())  # each id once
                behind = [r for r in fresh if r.blocking_key in added.blocked]
                if behind:
                    waiting = "waits behind an earlier event of its key"
                    rows = [Parked(r.record, waiting, 0, blocks=True, event_id=r.event_id) for r in behind]
                    await parking.park(conn, self._consumer, rows)
                for wave in waves([r for r in fresh if r.blocking_key not in added.blocked]):
                    for model, found in wave.items():
                        await self._handlers[model](conn, found)
        self._committed()
        metrics.CONSUMER_BATCH.observe(len(batch))
        metrics.CONSUMED.labels("handled").inc(len(fresh) - len(behind))
        metrics.CONSUMED.labels("duplicate").inc(len(batch) - len(fresh))

    async def _park(self, parked: list[Parked]) -> None:
        keys = {one.key for one in parked}
        async with postgres.transaction(self._pool, keys) as conn:
            ids = [one.event_id for one in parked if one.event_id is not None]
            await inbox.add(conn, self._consumer, ids, [])
            added = await parking.park(conn, self._consumer, parked)
        self._committed()
        metrics.CONSUMED.labels("parked").inc(len(added))
        for one in added:
            log.error("event parked", topic=one.record.topic, key=one.key, offset=one.record.offset, error=one.error)


def waves(batch: Iterable[Received]) -> list[dict[type[BaseModel], list[BaseModel]]]:
    """Sort events into waves, and within a wave by type. The k-th event of each key is in wave k."""
    seen: dict[str, int] = defaultdict(int)
    found: list[dict[type[BaseModel], list[BaseModel]]] = []
    for received in batch:
        turn = seen[received.key]
        seen[received.key] += 1
        if turn == len(found):
            found.append(defaultdict(list))
        found[turn][type(received.event)].append(received.event)
    return found
