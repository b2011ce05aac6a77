"""Handling: a batch of records becomes one transaction with inbox rows, effects, and the events that follow.

What must stay true: effects and inbox rows commit together, before the Kafka offset. An unavailable Postgres never
parks an event, and neither does a bad release (`breaker.py`). An event that cannot be handled is parked, together with
the later events of its key, and never lost. Errors are sorted by phase: only what a handler raises while Postgres
answers is the event's error. The pattern is the idempotent consumer (Richardson, 2018), for a batch at a time.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from random import random
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from pydantic import BaseModel

from .. import metrics, postgres, tracing
from ..errors import UnknownAggregate
from ..postgres import Connection, Pool
from ..process.loop import Beat
from . import events, inbox, parking
from .breaker import KEYS_IN_A_ROW, Breaker
from .crashes import MAX_CRASHES, Crashes
from .events import Key, Received, Record, Undecodable
from .parking import Parked

log = structlog.get_logger()

Handler = Callable[[Connection, list[Any]], Awaitable[None]]
"""`handler(conn, events)`: the effects of a list of events of one type, in the transaction of the batch."""

_MAX_CHUNK = 2000
_MAX_CHUNK_BYTES = 4_000_000
_MAX_PARK_BYTES = 2_000_000


class HandlerFailed(Exception):
    """A handler raised `error` while Postgres was answering. `model` is the type of its events."""

    def __init__(self, model: type[BaseModel], error: Exception) -> None:
        super().__init__(model, error)
        self.model, self.error = model, error


class _Turn:
    """One call of `handle`: the events that are not done yet, by id, and what failed in this call."""

    def __init__(self, received: Iterable[Received]) -> None:
        self.left: dict[UUID, Received] = {}
        for one in received:
            self.left.setdefault(one.event_id, one)  # of an event that comes twice, the first record counts
        self.failed: set[Key] = set()
        self.alone: Counter[type[BaseModel]] = Counter()
        """How many events of each type failed alone."""


class Handling:
    """What one consumer does with records. It does not know Kafka, so tests can call it directly.

    `handlers` maps event models to handlers. Each handler is called in the transaction of the batch, which holds the
    locks of the events' keys; it gets events of one key in their order. `committed` is called after each commit.
    Handlings with the same `also_lock` take turns; use it if handlers share rows between keys. Events of a type in
    `ignores` are skipped. A type that is in neither list is newer than this release: it is parked, and blocks nothing,
    so that the next release can handle it. Events of a type in `states` have the whole state of their aggregate, with a
    version; their handler ignores old versions. They may be of any age, and are handled each time they come, so that a
    replica can be built from a compacted topic.
    """

    def __init__(
        self,
        pool: Pool,
        consumer: str,
        handlers: Mapping[type[BaseModel], Handler],
        committed: Callable[[], None] = lambda: None,
        also_lock: Sequence[str] = (),
        ignores: Collection[type[BaseModel]] = (),
        states: Collection[type[BaseModel]] = (),
    ) -> None:
        self._pool, self._handlers = pool, handlers
        self.consumer, self.committed, self.also_lock = consumer, committed, also_lock
        self._chunk, self._park_bytes = _MAX_CHUNK, _MAX_PARK_BYTES
        self._models = {model.__name__: model for model in handlers}
        self._ignored = {model.__name__ for model in ignores}
        self._states = frozenset(states)
        self._breaker, self._crashes = Breaker(), Crashes(pool, consumer)
        self._known: dict[tuple[object, ...], Received] = {}
        self._beat: Beat = lambda: None

    async def handle(self, records: Sequence[Record], *, retry: bool = True, beat: Beat = lambda: None) -> list[Record]:
        """Handle or park records. Returns those that are left, in order: they failed, or wait behind one that failed.

        Call it again with the records that are left, before later records of their keys. With `retry=False`, events
        that failed before are not tried. Raises one of `postgres.ERRORS`; then call it again with the same records.
        """
        self._beat = beat
        await self._crashes.start(records)
        understood, hopeless = self._decode(records)
        await self._park(hopeless)
        turn = _Turn(understood)
        if retry and self._breaker.has_paused:
            understood = _shuffled(understood)  # so that other events of the type are tried
        if not retry:
            turn.failed = {r.blocking_key for r in understood if self._breaker.knows(r.event_id)}
        if self._crashes.any_careful:
            understood = await self._carefully(understood, turn)
        for chunk in self._chunks(understood):
            await self._attempt(chunk, turn)
        self._chunk = _MAX_CHUNK
        self._breaker.keep(turn.left)
        self._known = {r.record[:3]: r for r in turn.left.values()}
        return [r.record for r in turn.left.values()]

    @property
    def paused(self) -> list[str]:
        """The types that are paused, because every event of theirs fails."""
        return self._breaker.paused

    async def release(self, owned: Collection[tuple[str, int]] = ()) -> None:
        """Call it when partitions (topic, number) are lost or left: this process has not died in them."""
        await self._crashes.release(owned)

    async def _carefully(self, understood: list[Received], turn: _Turn) -> list[Received]:
        """Handle the events of the partitions in which processes died, one at a time. Returns the other events."""
        suspects = [one for one in understood if self._crashes.is_careful(one.record)]
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            known = await inbox.known(conn, self.consumer, [one.event_id for one in suspects])
        for one in suspects:
            is_suspect = self._crashes.is_careful(one.record) and one.event_id not in known
            if is_suspect and one.blocking_key not in turn.failed:
                await self._alone(one, turn)
        return [one for one in understood if one.event_id in turn.left]

    async def _alone(self, one: Received, turn: _Turn) -> None:
        if (deaths := self._crashes.of(one)) >= MAX_CRASHES:
            error = f"the process died {deaths} times while it handled this event alone"
            await self._park([Parked(one.record, error, deaths, blocks=True, event_id=one.event_id)], turn)
            return
        await self._crashes.mark(one)
        try:
            await self._attempt([one], turn)
        except postgres.ERRORS:
            await self._crashes.clear(one)
            raise
        if one.event_id in turn.left:
            await self._crashes.clear(one)
            turn.failed.add(one.blocking_key)  # so that it is not tried again in this call, with others
        await self._crashes.count(one)

    def _decode(self, records: Sequence[Record]) -> tuple[list[Received], list[Parked]]:
        understood: list[Received] = []
        hopeless: list[Parked] = []
        for record in records:
            try:
                received = self._known.get(record[:3]) or self.understand(record)
            except Undecodable as error:
                hopeless.append(Parked(record, str(error), 0, blocks=False, event_id=error.event_id))
            else:
                understood += [received] if received else []
        return understood, hopeless

    def understand(self, record: Record, now: datetime | None = None) -> Received | None:
        """Decode a record of a type that is handled. None: its type is ignored. Raises `Undecodable`.

        `now` is the time at which the age of the event is judged.
        """
        if record.headers and record.headers[0][0] == events.BROKEN:
            raise Undecodable(f"not a readable record: {(record.headers[0][1] or b'').decode(errors='replace')}")
        type_ = events.type_of(record)
        if type_ is None:
            raise Undecodable("header ce_type is missing")
        model = self._models.get(type_)
        if model is None:
            if type_ not in self._ignored:
                event_id = events.id_of(record)
                is_known = event_id is not None and inbox.acceptable(event_id, now)
                raise Undecodable(f"unknown_type: {type_:.200}", event_id if is_known else None)
            metrics.CONSUMED.labels("skipped").inc()
            return None
        received = events.decode(record, model)
        is_in_time = inbox.is_past if model in self._states else inbox.acceptable
        if not is_in_time(received.event_id, now):
            raise Undecodable(f"ce_id {received.event_id} is no UUIDv7 of the last days")
        return received

    def is_state(self, received: Received) -> bool:
        """True if the event has the whole state of its aggregate."""
        return type(received.event) in self._states

    def _chunks(self, received: Iterable[Received]) -> Iterator[list[Received]]:
        """Cut by rows and by bytes. The number of rows may change between two chunks."""
        chunk: list[Received] = []
        size = 0
        for one in received:
            chunk.append(one)
            size += len(one.record.value or b"")
            if len(chunk) >= self._chunk or size >= _MAX_CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    async def _attempt(self, batch: list[Received], turn: _Turn) -> None:
        """Commit the batch as a whole, or halve it until a failing event stands alone."""
        self._beat()
        batch = [r for r in batch if r.blocking_key not in turn.failed]
        if not batch:
            return
        try:
            await self._commit(batch)
        except HandlerFailed as failure:
            await self._split(batch, failure.error, failure.model, turn)
        except postgres.ERRORS as error:
            if postgres.is_too_slow(error) and len(batch) > 1:
                self._chunk = max(1, len(batch) // 2)  # the next attempt uses smaller transactions
            if not postgres.is_of_data(error):
                raise
            await self._split(batch, error, None, turn)
        else:
            self._done((r.event_id for r in batch), turn)

    async def _split(self, batch: list[Received], error: Exception, model: type[BaseModel] | None, turn: _Turn) -> None:
        """Find the events that are at fault: by the error, by their type, or by halves."""
        named = error.events if isinstance(error, UnknownAggregate) else []
        strange = [r for r in batch if any(r.event is event for event in named)]
        if strange:
            rows = [Parked(r.record, str(error), 1, blocks=False, event_id=r.event_id) for r in strange]
            await self._park(rows, turn)
            await self._attempt([r for r in batch if r not in strange], turn)
        elif model is not None and self._is_broken(model, error, turn):
            await self._hold(batch, error, model, turn)
        elif len(batch) > 1:
            if postgres.is_too_slow(error):
                self._chunk = min(self._chunk, len(batch) // 2)
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                for part in self._chunks(half):
                    await self._attempt(part, turn)
        else:
            await self._fail(batch[0], error, turn)

    async def _fail(self, one: Received, error: Exception, turn: _Turn) -> None:
        turn.alone[type(one.event)] += 1
        if attempts := self._breaker.failed(one, error):
            await self._park([Parked(one.record, repr(error), attempts, blocks=True, event_id=one.event_id)], turn)
        else:
            turn.failed.add(one.blocking_key)

    def _is_broken(self, model: type[BaseModel], error: Exception, turn: _Turn) -> bool:
        """True if no more events of the type have to be tried alone in this call."""
        if postgres.is_release_fault(error):
            return True
        return turn.alone[model] >= KEYS_IN_A_ROW and self._breaker.is_paused(model.__name__)

    async def _hold(self, batch: list[Received], error: Exception, model: type[BaseModel], turn: _Turn) -> None:
        """Hold the events of a type, and what comes after them in their keys. Handle the others."""
        held: set[Key] = set()
        others = []
        for one in batch:
            if type(one.event) is model:
                self._breaker.hold(one, error)
                held.add(one.blocking_key)
            if one.blocking_key not in held:
                others.append(one)
        await self._attempt(others, turn)
        turn.failed |= held

    async def _commit(self, batch: list[Received]) -> None:
        keys = sorted({r.key for r in batch})
        with tracing.carrying(events.traceparents_of(batch)):
            async with postgres.transaction(self._pool, [*keys, *self.also_lock]) as conn:
                added = await inbox.add(conn, self.consumer, [r.event_id for r in batch if not self.is_state(r)], keys)
                new = (r for r in batch if r.event_id in added.fresh or self.is_state(r))
                fresh = list({r.event_id: r for r in new}.values())  # each id once
                behind = [r for r in fresh if r.blocking_key in added.blocked]
                if behind:
                    waiting = "waits behind an earlier event of its key"
                    rows = [Parked(r.record, waiting, 0, blocks=True, event_id=r.event_id) for r in behind]
                    await parking.park(conn, self.consumer, rows)
                handled = [r for r in fresh if r.blocking_key not in added.blocked]
                for wave in waves(handled):
                    for model, found in wave.items():
                        await self.call(conn, model, found)
        self.committed()
        for type_ in {type(r.event).__name__ for r in handled}:
            self._breaker.succeeded(type_)
        metrics.CONSUMER_BATCH.observe(len(batch))
        metrics.CONSUMED.labels("handled").inc(len(handled))
        metrics.CONSUMED.labels("duplicate").inc(len(batch) - len(fresh))

    async def call(self, conn: Connection, model: type[BaseModel], found: list[BaseModel]) -> None:
        """Call the handler of a type, in the caller's transaction, which holds the locks of the events' keys.

        Raises `HandlerFailed`: then the events are at fault, and the transaction is over. Raises one of
        `postgres.ERRORS` if Postgres is at fault or does not answer.
        """
        try:
            await self._handlers[model](conn, found)
        except Exception as error:
            if _is_infrastructure(error):
                raise
            if await _answers(conn):
                raise HandlerFailed(model, error) from error
            raise ConnectionError(f"Postgres failed during a handler: {error!r:.300}") from error

    async def _park(self, parked: Sequence[Parked], turn: _Turn | None = None) -> None:
        """Park in transactions of bounded size. If one is too slow, the next attempt is half as large."""
        part: list[Parked] = []
        size = 0
        for n, one in enumerate(parked, 1):
            part.append(one)
            size += len(one.record.value or b"") + 1000
            if size >= self._park_bytes or n == len(parked):
                await self._park_part(part)
                if turn is not None:
                    self._done((p.event_id for p in part if p.event_id is not None), turn)
                part, size = [], 0
        self._park_bytes = _MAX_PARK_BYTES

    async def _park_part(self, parked: Sequence[Parked]) -> None:
        self._beat()
        try:
            async with postgres.transaction(self._pool, {one.key for one in parked}) as conn:
                ids = [one.event_id for one in parked if one.event_id is not None]
                fresh = (await inbox.add(conn, self.consumer, ids, [])).fresh  # the effects of the others are in
                new = [one for one in parked if one.event_id is None or one.event_id in fresh]
                added = await parking.park(conn, self.consumer, new)
        except postgres.ERRORS as error:
            if postgres.is_too_slow(error):
                self._park_bytes = max(1, self._park_bytes // 2)
            raise
        self.committed()
        metrics.CONSUMED.labels("parked").inc(len(added))
        for one in added:
            log.error("event parked", topic=one.record.topic, key=one.key, offset=one.record.offset, error=one.error)

    @staticmethod
    def _done(event_ids: Iterable[UUID], turn: _Turn) -> None:
        for event_id in event_ids:
            turn.left.pop(event_id, None)


async def _answers(conn: Connection) -> bool:
    """True if Postgres still answers on this connection. The transaction is over then."""
    try:
        await conn.execute("rollback")
    except postgres.ERRORS:
        return False
    return True


def _is_infrastructure(error: Exception) -> bool:
    """True if the SQLSTATE says that no event is at fault, although Postgres answers."""
    return isinstance(error, asyncpg.PostgresError) and postgres.is_transient(error) and not postgres.is_too_slow(error)


def _shuffled(received: list[Received]) -> list[Received]:
    """The same events with their keys in a random order. The events of a key keep their order."""
    rank: dict[Key, float] = defaultdict(random)
    return sorted(received, key=lambda one: rank[one.blocking_key])


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
