"""Handling: a batch of records becomes one transaction with inbox rows, effects, and the events that follow.

What must stay true: effects and inbox rows commit together, before the Kafka offset. An unavailable Postgres never
parks an event, and neither does a bad release (`breaker.py`). An event that cannot be handled is parked, together with
the later events of its key, and never lost. Errors are sorted by phase: only what a handler raises while Postgres
answers is the event's error. The pattern is the idempotent consumer (Richardson, 2018), for a batch at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from random import random
from uuid import UUID

import structlog
from pydantic import BaseModel

from .. import metrics, postgres, tracing
from ..postgres import Connection, Pool
from ..process.loop import Beat
from . import events, inbox, parking, spans
from .breaker import Breaker
from .crashes import MAX_CRASHES, Crashes
from .events import Key, Received, Record, Undecodable
from .handlers import Handler, HandlerFailed, Handlers
from .parking import Parked
from .sifting import Sift, Turn

log = structlog.get_logger()

_MAX_CHUNK = 2000
_MAX_CHUNK_BYTES = 4_000_000
_MAX_PARK_BYTES = 2_000_000
_MAX_CARRIED_BYTES = 100_000
_SIFT_FROM = 50  # a smaller batch costs less than the savepoint in which it would be tried first


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
        self._pool, self.handlers = pool, Handlers(handlers)
        self.consumer, self.committed, self.also_lock = consumer, committed, also_lock
        self._chunk, self._park_bytes = _MAX_CHUNK, _MAX_PARK_BYTES
        self._models = {model.__name__: model for model in handlers}
        self._ignored = {model.__name__ for model in ignores}
        self._states = frozenset(states)
        self._breaker, self._crashes = Breaker(), Crashes(pool, consumer)
        self._sift = Sift(consumer, self.handlers, self._breaker)
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
        turn = Turn(understood)
        if understood and _bytes_of(hopeless) <= _MAX_CARRIED_BYTES:
            turn.carried = hopeless
        else:
            await self._park(hopeless, turn)
        if retry and self._breaker.has_paused:
            understood = _shuffled(understood)  # so that other events of the type are tried
        if not retry:
            turn.failed = {r.blocking_key for r in understood if self._breaker.knows(r.event_id)}
        if self._crashes.any_careful:
            understood = await self._carefully(understood, turn)
        for some in self._suspects_apart(understood):
            for chunk in self._chunks(some):
                await self._attempt(chunk, turn)
        turn.to_park += turn.carried
        await self._park_failed(turn)
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

    async def _carefully(self, understood: list[Received], turn: Turn) -> list[Received]:
        """Handle the events of the partitions in which processes died, one at a time. Returns the other events."""
        suspects = [one for one in understood if self._crashes.is_careful(one.record)]
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            known = await inbox.known(conn, self.consumer, [one.event_id for one in suspects])
        for one in suspects:
            is_suspect = self._crashes.is_careful(one.record) and one.event_id not in known
            if is_suspect and one.blocking_key not in turn.failed:
                await self._alone(one, turn)
        return [one for one in understood if one.event_id in turn.left]

    async def _alone(self, one: Received, turn: Turn) -> None:
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
                known = self._known.get(record[:3]) if self._known else None
                received = known or self.understand(record)
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

    def _suspects_apart(self, received: list[Received]) -> tuple[list[Received], list[Received], list[Received]]:
        """Separate the events that failed before, so that they make no batch fail. Each key keeps its order.

        The events of other keys come first. If they succeed, the release is sound, and the suspects are at fault.
        """
        if not self._breaker.any_known:
            return received, [], []
        keys = {one.blocking_key for one in received if self._breaker.knows(one.event_id)}
        suspects: list[Received] = []
        behind: list[Received] = []
        waiting: set[Key] = set()
        for one in received:
            if one.blocking_key not in keys:
                continue
            if self._breaker.knows(one.event_id) and one.blocking_key not in waiting:
                suspects.append(one)
            else:
                waiting.add(one.blocking_key)
                behind.append(one)
        return [one for one in received if one.blocking_key not in keys], suspects, behind

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

    async def _attempt(self, batch: list[Received], turn: Turn) -> None:
        """Commit the events that succeed. The others are parked, or noted in `turn`."""
        self._beat()
        batch = turn.possible(batch)
        if not batch:
            return
        failure = await self._try(batch, turn, sifts=len(batch) >= _SIFT_FROM)
        if failure is not None and 1 < len(batch) < _SIFT_FROM and failure.is_of_events:
            failure = await self._try(batch, turn, sifts=True)
        if failure is not None and failure.is_slow and len(batch) > 1:
            await self._halve(batch, turn)
        elif failure is not None:
            attempt = partial(self._attempt, turn=turn)
            await self._sift.split(batch, failure.error, failure.model, turn, attempt)
        await self._park_failed(turn)
        if not turn.left:
            return
        rest = turn.possible(one for one in batch if one.event_id in turn.left)
        if len(rest) == len(batch):
            await self._halve(rest, turn)
        else:
            await self._attempt(rest, turn)

    async def _try(self, batch: list[Received], turn: Turn, *, sifts: bool) -> HandlerFailed | None:
        """Commit the batch. Returns the failure that belongs to its events, if there was one."""
        try:
            await self._commit(batch, turn, sifts=sifts)
        except HandlerFailed as failure:
            return failure
        except postgres.ERRORS as error:
            if postgres.is_too_slow(error) and len(batch) > 1:
                self._chunk = max(1, len(batch) // 2)  # the next attempt uses smaller transactions
            if not postgres.is_of_data(error):
                raise
            return HandlerFailed(None, error)
        return None

    async def _halve(self, batch: list[Received], turn: Turn) -> None:
        """Attempt a batch that was too slow, in smaller transactions."""
        self._chunk = max(1, min(self._chunk, len(batch) // 2))
        for chunk in self._chunks(batch):
            await self._attempt(chunk, turn)

    async def _park_failed(self, turn: Turn) -> None:
        parked, turn.to_park = turn.to_park, []
        await self._park(parked, turn)

    async def _commit(self, batch: list[Received], turn: Turn, *, sifts: bool) -> None:
        """Handle a batch in one transaction. Without `sifts`, it has no savepoint, and fails as a whole.

        Carried records and events that fail for the last time are parked in it too. So they cost no commit.
        """
        batch, begun = spans.processing(batch, self.consumer, self._states)
        carried, turn.carried = turn.carried, []
        noted = len(turn.to_park)
        keys = {r.key for r in batch}
        locks = [*keys, *(one.key for one in carried), *self.also_lock]
        try:
            with tracing.carrying(events.traceparents_of(batch)):
                async with postgres.transaction(self._pool, locks) as conn:
                    fresh, handled = await self._begin(conn, batch, keys)
                    done = await self._handle_in(conn, handled, turn, sifts=sifts)
                    left: set[UUID] = set()
                    if len(done) < len(handled):
                        left = {r.event_id for r in handled}.difference(r.event_id for r in done)
                        await inbox.remove(conn, self.consumer, left)
                    parked = [*carried, *turn.to_park[noted:]]
                    added = await self._store(conn, parked)
        except BaseException:
            turn.to_park += carried  # the next transaction has them alone
            raise
        del turn.to_park[noted:]
        turn.done(r.event_id for r in batch if not left or r.event_id not in left)
        turn.parked(parked)
        self._report(added)
        for r in done if begun else ():
            if span := begun.get(r.event_id):
                span.end()
        for type_ in {type(r.event).__name__ for r in done}:
            self._breaker.succeeded(type_)
        metrics.CONSUMER_BATCH.observe(len(batch))
        metrics.CONSUMED.labels("handled").inc(len(done))
        metrics.CONSUMED.labels("duplicate").inc(len(batch) - len(fresh))

    async def _begin(
        self, conn: Connection, batch: list[Received], keys: Collection[str]
    ) -> tuple[list[Received], list[Received]]:
        """Put the events into the inbox, and park those that wait behind others. Returns the new ones and the rest."""
        ids = [r.event_id for r in batch if not self.is_state(r)]
        added = await inbox.add(conn, self.consumer, ids, sorted(keys))
        new = (r for r in batch if r.event_id in added.fresh or self.is_state(r))
        fresh = list({r.event_id: r for r in new}.values())  # each id once
        if not added.blocked:
            return fresh, fresh
        behind = [r for r in fresh if r.blocking_key in added.blocked]
        if behind:
            waiting = "waits behind an earlier event of its key"
            rows = [Parked(r.record, waiting, 0, blocks=True, event_id=r.event_id) for r in behind]
            await parking.park(conn, self.consumer, rows)
        return fresh, [r for r in fresh if r.blocking_key not in added.blocked]

    async def _handle_in(self, conn: Connection, batch: list[Received], turn: Turn, *, sifts: bool) -> list[Received]:
        """Handle in the caller's transaction. Returns what is done."""
        if sifts and len(batch) > 1:
            return await self._sift.handle(conn, batch, turn, self._beat)
        await self.handlers.handle(conn, batch)
        return batch

    async def _park(self, parked: Sequence[Parked], turn: Turn) -> None:
        """Park in transactions of bounded size. If one is too slow, the next attempt is half as large."""
        part: list[Parked] = []
        size = 0
        for n, one in enumerate(parked, 1):
            part.append(one)
            size += _bytes_of([one])
            if size >= self._park_bytes or n == len(parked):
                await self._park_part(part)
                turn.parked(part)
                part, size = [], 0
        self._park_bytes = _MAX_PARK_BYTES

    async def _park_part(self, parked: Sequence[Parked]) -> None:
        self._beat()
        try:
            async with postgres.transaction(self._pool, {one.key for one in parked}) as conn:
                added = await self._store(conn, parked)
        except postgres.ERRORS as error:
            if postgres.is_too_slow(error):
                self._park_bytes = max(1, self._park_bytes // 2)
            raise
        self._report(added)

    async def _store(self, conn: Connection, parked: Sequence[Parked]) -> list[Parked]:
        """Park in the caller's transaction, which holds the locks of the keys. Returns what was not parked before."""
        if not parked:
            return []
        ids = [one.event_id for one in parked if one.event_id is not None]
        fresh = (await inbox.add(conn, self.consumer, ids, [])).fresh  # the effects of the others are in
        new = [one for one in parked if one.event_id is None or one.event_id in fresh]
        return await parking.park(conn, self.consumer, new)

    def _report(self, parked: Sequence[Parked]) -> None:
        self.committed()
        metrics.CONSUMED.labels("parked").inc(len(parked))
        for one in parked:
            where = {"topic": one.record.topic, "offset": one.record.offset, **events.ids_of(one.record)}
            log.error("event parked", key=one.key, **where, error=one.error)


def _bytes_of(parked: Iterable[Parked]) -> int:
    return sum(len(one.record.value or b"") + 1000 for one in parked)


def _shuffled(received: list[Received]) -> list[Received]:
    """The same events with their keys in a random order. The events of a key keep their order."""
    rank: dict[Key, float] = defaultdict(random)
    return sorted(received, key=lambda one: rank[one.blocking_key])
