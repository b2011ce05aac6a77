"""Sifting: a batch in which a handler failed is tried in parts, until the events at fault are known.

What must stay true: a failed event leaves no effects, and each other event is handled once. The parts are tried in
savepoints of one transaction. A transaction for each part would write to the disk 18 times to find one event of 500.
"""

import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from pydantic import BaseModel

from .. import postgres
from ..errors import UnknownAggregate
from ..postgres import Connection
from ..process.loop import Beat
from . import spans
from .breaker import KEYS_IN_A_ROW, Breaker
from .events import Key, Received
from .handlers import HandlerFailed, Handlers
from .parking import Parked

Attempt = Callable[[list[Received]], Awaitable[None]]
"""Tries a part of a batch."""

_MAX_SECONDS = 1.0
"""So long one transaction sifts. It holds the outboxes of the whole cluster back."""

_GUESSES = 8  # with more failures, halves find them with less work

_UNDO = "rollback to savepoint part; release savepoint part"


class Turn:
    """One call of `handle`: the events that are not done yet, by id, and what failed in this call."""

    def __init__(self, received: Iterable[Received]) -> None:
        self.left: dict[UUID, Received] = {}
        for one in received:
            self.left.setdefault(one.event_id, one)  # of an event that comes twice, the first record counts
        self.failed: set[Key] = set()
        self.alone: Counter[type[BaseModel]] = Counter()
        """How many events of each type failed alone."""
        self.carried: list[Parked] = []
        """Records that cannot be decoded, to be parked in the next transaction, whatever its batch is."""
        self.to_park: list[Parked] = []
        """Events that failed for the last time, to be parked."""
        self.guesses = _GUESSES
        """So many more failures are looked up in their tracebacks."""

    def possible(self, batch: Iterable[Received]) -> list[Received]:
        """The events of a batch whose keys did not fail in this call."""
        if not self.failed:
            return list(batch)
        return [one for one in batch if one.blocking_key not in self.failed]

    def done(self, event_ids: Iterable[UUID]) -> None:
        """Note that these events are handled, or were before."""
        pop = self.left.pop
        for event_id in event_ids:
            pop(event_id, None)

    def parked(self, parked: Iterable[Parked]) -> None:
        """Note that these are parked. Later events of their keys can be tried: they are parked behind them."""
        for one in parked:
            gone = None if one.event_id is None else self.left.pop(one.event_id, None)
            if gone is not None and one.blocks:
                self.failed.discard(gone.blocking_key)


@dataclass(slots=True)
class _Sifting:
    """The sifting of one batch. No function refers to itself here: a cycle would keep the whole batch in memory."""

    conn: Connection
    turn: Turn
    beat: Beat
    until: float
    size: int
    done: list[Received] = field(default_factory=list)


class Sift:
    """Finds the events at fault among those of one consumer."""

    def __init__(self, consumer: str, handlers: Handlers, breaker: Breaker) -> None:
        self._consumer, self._handlers, self._breaker = consumer, handlers, breaker

    async def handle(self, conn: Connection, batch: list[Received], turn: Turn, beat: Beat) -> list[Received]:
        """Handle events in the caller's transaction. Returns those that succeeded.

        The others failed, are to be parked (both are noted in `turn`), or were not tried, because time was over.
        Raises `HandlerFailed` if a handler was too slow, or one of `postgres.ERRORS`; then the transaction is over.
        """
        sifting = _Sifting(conn, turn, beat, time.monotonic() + _MAX_SECONDS, len(batch))
        await self._attempt(sifting, batch)
        return sifting.done

    async def _attempt(self, sifting: "_Sifting", part: list[Received]) -> None:
        """Handle a part in a savepoint. If it fails, split it."""
        sifting.beat()
        part = sifting.turn.possible(part)
        if not part or time.monotonic() > sifting.until:
            return
        await sifting.conn.execute("savepoint part")
        try:
            await self._handlers.handle(sifting.conn, part, _UNDO)
        except HandlerFailed as error:
            if error.is_slow:
                raise
            failure = error
        else:
            sifting.done.extend(part)
            if len(part) < sifting.size:
                await sifting.conn.execute("release savepoint part")
            return
        # Not within `except`: the traceback of a later failure would have this one in it.
        await self.split(part, failure.error, failure.model, sifting.turn, partial(self._attempt, sifting))

    async def split(
        self, batch: list[Received], error: Exception, model: type[BaseModel] | None, turn: Turn, attempt: Attempt
    ) -> None:
        """Find the events at fault: by the error and its traceback, by their type, or by trying both halves.

        `batch` failed with `error`. `model` is the type of the handler that failed. None: the error is not a handler's.
        """
        named = error.events if isinstance(error, UnknownAggregate) else []
        strange = [r for r in batch if any(r.event is event for event in named)]
        if strange:
            turn.to_park += [Parked(r.record, str(error), 1, blocks=False, event_id=r.event_id) for r in strange]
            await attempt([r for r in batch if r not in strange])
        elif model is not None and self._is_broken(model, error, turn):
            await self._hold(batch, error, model, turn, attempt)
        elif len(batch) == 1:
            self._fail(batch[0], error, turn)
        elif turn.guesses and (key := _in_hand(error, batch)):
            await attempt([r for r in batch if r.blocking_key == key])
            turn.guesses = turn.guesses - 1 if key in turn.failed else 0
            await attempt([r for r in batch if r.blocking_key != key])
        else:
            await attempt(batch[: len(batch) // 2])
            await attempt(batch[len(batch) // 2 :])

    def _fail(self, one: Received, error: Exception, turn: Turn) -> None:
        turn.alone[type(one.event)] += 1
        turn.failed.add(one.blocking_key)
        spans.failed(one, self._consumer, error)
        if attempts := self._breaker.failed(one, error):
            turn.to_park.append(Parked(one.record, repr(error), attempts, blocks=True, event_id=one.event_id))

    def _is_broken(self, model: type[BaseModel], error: Exception, turn: Turn) -> bool:
        """True if no more events of the type have to be tried alone in this call."""
        if postgres.is_release_fault(error):
            return True
        return turn.alone[model] >= KEYS_IN_A_ROW and self._breaker.is_paused(model.__name__)

    async def _hold(
        self, batch: list[Received], error: Exception, model: type[BaseModel], turn: Turn, attempt: Attempt
    ) -> None:
        """Hold the events of a type, and what comes after them in their keys. Handle the others."""
        held: set[Key] = set()
        others = []
        for one in batch:
            if type(one.event) is model:
                self._breaker.hold(one, error)
                held.add(one.blocking_key)
            if one.blocking_key not in held:
                others.append(one)
        await attempt(others)
        turn.failed |= held


def _in_hand(error: Exception, batch: list[Received]) -> Key | None:
    """The key of the event in a local variable of the innermost function that has one: often the event at fault.

    None if there is no such event, or the batch has no other key.
    """
    by_identity = {id(one.event): one.blocking_key for one in batch} | {id(one): one.blocking_key for one in batch}
    found = None
    if len(set(by_identity.values())) == 1:
        return None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            found = by_identity.get(id(value), found)
    return found
