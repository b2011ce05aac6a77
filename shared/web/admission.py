"""Admission: while the process is late, a new request is refused before its body is read, because that is cheap.

What must stay true: the measure is a delay, as in CoDel (Nichols and Jacobson, 2012). A queue may be long for a moment,
but it must not stay late. Health checks, metrics, the admin API and operations that reduce work are never refused.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import choice

from aiohttp import web

from .. import metrics
from . import problems
from .operations import Operation, declared

TARGET_SECONDS = 0.5
"""A delay up to this is no reason to refuse anything."""
PATIENCE_SECONDS = 0.5
"""After a longer delay has lasted for this time, new requests are refused until the delay is below the target."""
LIMIT_SECONDS = 1.0
"""A longer delay is a reason at once."""
MIN_IN_FLIGHT = 64
"""With fewer requests than this, something else makes the process late, and refusals would not help."""
MAX_IN_FLIGHT = 16_384
"""So many requests may wait for their answers, also those that rest."""
MAX_AT_WORK = 1024
"""So many of them may be at work. The others rest: they wait for something that others do, as a long poll does.

This bounds the work that a burst brings, and it is what usually refuses. A delay alone would admit thousands of
requests before the process is late, refuse all while it works them off, and then admit thousands again.
"""
BUSY = MAX_AT_WORK // 4
"""With so many at work, work in the background gives way."""
_MEASURED_FROM = MIN_IN_FLIGHT // 2  # a long poll waits for seconds: few of them need no timer
_TICK_SECONDS = 0.02
_ADMIN_PATH = "/admin/"
RETRY_SECONDS = (1, 2, 3)
"""A refused client comes again after one of these, so that not all come at once."""
DETAIL = "too much to do now; nothing was done"


@dataclass(frozen=True)
class Closed:
    """Why an operation is refused: in a word for the metric, and in a sentence for the client."""

    reason: str
    detail: str


class Admission:
    """Decides about new requests. `watch` adds a queue: a function says how long its oldest entry has waited."""

    def __init__(self) -> None:
        self._queues: dict[str, Callable[[], float]] = {}
        self._in_flight = self._resting = self._handed = 0
        self._late_since: float | None = None
        self._lag = 0.0
        self._due: float | None = None  # when the next timer is due, if there is one
        self.closed: dict[str, Closed] = {}
        """Operations, such as `POST /orders/`, that are refused for now, each with the reason."""

    def watch(self, name: str, seconds: Callable[[], float]) -> None:
        self._queues[name] = seconds

    def reason(self) -> str | None:
        """Why a request that comes now must be refused, or None."""
        if self._in_flight >= MAX_IN_FLIGHT:
            return "in flight"
        if self._at_work >= MAX_AT_WORK:
            return "at work"
        if self._in_flight < MIN_IN_FLIGHT:
            self._late_since = None
            return None
        now = asyncio.get_running_loop().time()
        what, delay = "event loop", self._delay_of_loop(now)
        for name, seconds in self._queues.items():
            if (waited := seconds()) > delay:
                what, delay = name, waited
        if delay <= TARGET_SECONDS:
            self._late_since = None
            return None
        if self._late_since is None:
            self._late_since = now
        is_late = delay > LIMIT_SECONDS or now - self._late_since >= PATIENCE_SECONDS
        return what if is_late else None

    def is_busy(self) -> bool:
        """True if work in the background must give way to requests."""
        return self._at_work >= BUSY

    @property
    def _at_work(self) -> int:
        return self._in_flight - self._resting + self._handed

    def enter(self) -> None:
        """A request is admitted. While there are many, the delay of the event loop is measured."""
        self._in_flight += 1
        if self._due is None and self._in_flight >= _MEASURED_FROM:
            self._measure(asyncio.get_running_loop())

    def leave(self) -> None:
        self._in_flight -= 1

    def hand(self) -> None:
        """A request came and was not refused. It counts as work until `begin`."""
        self._handed += 1

    def begin(self) -> None:
        """The handler of a request that was handed has begun, or its connection is lost."""
        self._handed -= 1

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Meanwhile a request that was admitted is not at work."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1

    def _delay_of_loop(self, now: float) -> float:
        """How late the last timer was, or how late the next one is already."""
        return max(self._lag, now - self._due) if self._due is not None else 0.0

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set a timer again and again, and note how late each is, while there are many requests."""
        now = loop.time()
        self._lag = now - self._due if self._due is not None else 0.0
        self._due = now + _TICK_SECONDS if self._in_flight >= _MEASURED_FROM else None
        if self._due is not None:
            loop.call_at(self._due, self._measure, loop)


ADMISSION = web.AppKey("ADMISSION", Admission)


def may_be_refused(operation: Operation | None, path: str) -> bool:
    """False for what must always be answered, and for paths without an operation."""
    return operation is not None and not operation.essential and not path.startswith(_ADMIN_PATH)


def refusal(request: web.Request, *, is_reserved: bool) -> web.Response | None:
    """The answer to a request that is not admitted, or None. An admitted request must `leave` at its end.

    `is_reserved` is true if the request came on one of the last connections.
    """
    if not may_be_refused(declared(request.match_info.handler), request.path):
        return None
    reason = "connections" if is_reserved else request.app[ADMISSION].reason()
    if reason is None:
        return None
    metrics.REFUSED.labels(reason).inc()
    return problems.response("refused", DETAIL, retry_after=choice(RETRY_SECONDS))
