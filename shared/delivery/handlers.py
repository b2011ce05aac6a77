"""Handlers: each event type has one. They are called in the transaction that has the inbox rows of the events.

What must stay true: errors are sorted by phase. Only what a handler raises while Postgres answers is the event's error.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import asyncpg
from pydantic import BaseModel

from .. import postgres, tracing
from ..postgres import Connection
from ..process.flags import Flags
from . import events
from .events import Received

_SLOW_SECONDS = 1.0  # less than any timeout of a statement

Handler = Callable[[Connection, list[Any]], Awaitable[None]]
"""`handler(conn, events)`: the effects of a list of events of one type, in the transaction of the batch."""


class HandlerFailed(Exception):
    """A handler raised `error` while Postgres was answering. `model` is the type of its events, if that is known.

    `is_slow`: perhaps it had too many events. A timeout that comes at once is a fault of the event, or of the handler.
    """

    def __init__(self, model: type[BaseModel] | None, error: Exception, *, is_slow: bool = False) -> None:
        super().__init__(model, error)
        self.model, self.error, self.is_slow = model, error, is_slow

    @property
    def is_of_events(self) -> bool:
        """True if some of the events may be at fault, and not their number, the release or the commit."""
        return self.model is not None and not self.is_slow and not postgres.is_release_fault(self.error)


class Handlers:
    """The handlers of one consumer, by type of event."""

    def __init__(self, by_type: Mapping[type[BaseModel], Handler]) -> None:
        self.by_type = by_type
        self.flags = Flags()

    async def handle(self, conn: Connection, batch: Iterable[Received], undo: str = "rollback") -> None:
        """Handle events in the caller's transaction, which holds the locks of their keys. A key's events stay in order.

        If a handler fails, `undo` is executed. Raises `HandlerFailed`: then the events are at fault. Raises one of
        `postgres.ERRORS` if Postgres is at fault or does not answer.
        """
        with tracing.carrying({}):
            for wave in waves(batch):
                with tracing.carrying(events.traceparents_of(wave)):
                    for model, found in _by_type(wave).items():
                        await self._call(conn, model, found, undo)

    async def _call(self, conn: Connection, model: type[BaseModel], found: list[Received], undo: str) -> None:
        started = time.monotonic()
        try:
            if self.flags.active():
                for one in found:
                    self.flags.check_handler(model.__name__, one.key)
            await self.by_type[model](conn, [one.event for one in found])
        except Exception as error:
            if _is_infrastructure(error):
                raise
            if await _answers(conn, undo):
                is_quick = isinstance(error, TimeoutError) and time.monotonic() - started < _SLOW_SECONDS
                raise HandlerFailed(model, error, is_slow=postgres.is_too_slow(error) and not is_quick) from error
            raise ConnectionError(f"Postgres failed during a handler: {error!r:.300}") from error


def waves(batch: Iterable[Received]) -> list[list[Received]]:
    """Sort events into waves. The k-th event of each key is in wave k."""
    seen: dict[str, int] = defaultdict(int)
    found: list[list[Received]] = []
    for received in batch:
        turn = seen[received.key]
        seen[received.key] += 1
        if turn == len(found):
            found.append([])
        found[turn].append(received)
    return found


def _by_type(wave: Iterable[Received]) -> dict[type[BaseModel], list[Received]]:
    found: dict[type[BaseModel], list[Received]] = defaultdict(list)
    for received in wave:
        found[type(received.event)].append(received)
    return found


async def _answers(conn: Connection, undo: str) -> bool:
    """True if Postgres still answers on this connection, and has undone what the handler did."""
    try:
        await conn.execute(undo)
    except postgres.ERRORS:
        return False
    return True


def _is_infrastructure(error: Exception) -> bool:
    """True if the SQLSTATE says that no event is at fault, although Postgres answers."""
    return isinstance(error, asyncpg.PostgresError) and postgres.is_transient(error) and not postgres.is_too_slow(error)
