"""The breaker: it tells one bad event among good ones from a bad release, which fails at every event of a type.

What must stay true: a bad release parks nothing. Two bad events next to each other do not stop a topic. The pattern is
the circuit breaker (Nygard, 2007), for a type of event instead of a remote system.
"""

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import structlog

from .. import metrics, postgres, tracing
from .events import Key, Received

log = structlog.get_logger()

MAX_ATTEMPTS = 3
KEYS_IN_A_ROW = 5
"""So many keys fail one after the other before their type counts as broken."""


@dataclass(slots=True)
class Trouble:
    """An event that failed, and how many events of its type had succeeded before."""

    type: str
    successes: int
    attempts: int = 0


class Breaker:
    """Decides whether an event that failed is parked, or held until later events of its type show who is at fault.

    An event is parked after `MAX_ATTEMPTS`, if fewer than `KEYS_IN_A_ROW` keys of its type failed in a row, or if a
    later event of its type succeeded. Otherwise it is held. An error that shows a missing column or a missing grant
    never parks an event. A type with such an error, or with too many keys in a row, is paused.
    """

    def __init__(self) -> None:
        self._successes: Counter[str] = Counter()
        self._failing: dict[str, set[Key]] = defaultdict(set)
        self._troubles: dict[UUID, Trouble] = {}
        self._paused: set[str] = set()
        self._reported: set[str] = set()

    def knows(self, event_id: UUID) -> bool:
        """True if the event failed, and is neither done nor parked."""
        return event_id in self._troubles

    @property
    def any_known(self) -> bool:
        """True if any event failed, and is neither done nor parked."""
        return bool(self._troubles)

    def succeeded(self, type_: str) -> None:
        """Note that an event of this type was handled: the release is sound, as far as this type goes."""
        self._successes[type_] += 1
        self._failing.pop(type_, None)
        if type_ in self._paused:
            self._paused.discard(type_)
            for trouble in self._troubles.values():
                if trouble.type == type_:
                    trouble.attempts = 0  # the type was at fault, and not these events
            metrics.CONSUMER_PAUSED.labels(type_).set(0)
            log.info("events of this type are handled again", type=type_)

    def failed(self, one: Received, error: BaseException) -> int:
        """Note a failure. Returns the number of attempts if the event is to be parked, or 0 if it is to be held."""
        type_ = type(one.event).__name__
        trouble = self._trouble_of(one)
        trouble.attempts += 1
        metrics.CONSUMER_RETRIES.labels(type_).inc()
        self._failing[type_].add(one.blocking_key)
        others_succeed = self._successes[type_] > trouble.successes
        is_single = len(self._failing[type_]) < KEYS_IN_A_ROW or others_succeed
        where = {"type": type_, "key": one.key, "event_id": str(one.event_id), **tracing.ids(one.traceparent)}
        log.warning("event failed", **where, attempts=trouble.attempts, exc_info=error)
        if not is_single:
            self._pause(type_, error)
        if postgres.is_too_slow(error):  # perhaps Postgres is slow; then no event is at fault
            is_single = others_succeed
        return trouble.attempts if trouble.attempts >= MAX_ATTEMPTS and is_single else 0

    def hold(self, one: Received, error: BaseException) -> None:
        """Note that an event waits for its type, without an attempt of its own."""
        self._trouble_of(one)
        self._pause(type(one.event).__name__, error)

    @property
    def paused(self) -> list[str]:
        """The types that are paused."""
        return sorted(self._paused)

    @property
    def has_paused(self) -> bool:
        """True if any type is paused."""
        return bool(self._paused)

    def is_paused(self, type_: str) -> bool:
        """True if every event of the type fails."""
        return type_ in self._paused

    def _trouble_of(self, one: Received) -> Trouble:
        type_ = type(one.event).__name__
        return self._troubles.setdefault(one.event_id, Trouble(type_, self._successes[type_]))

    def keep(self, left: Collection[UUID]) -> None:
        """Forget all events but those that are `left`: the others are done or parked, or another member has them."""
        self._troubles = {event_id: trouble for event_id, trouble in self._troubles.items() if event_id in left}
        held = Counter(trouble.type for trouble in self._troubles.values())
        for type_ in self._reported | held.keys():
            metrics.CONSUMER_HELD.labels(type_).set(held[type_])
        self._reported = set(held)

    def _pause(self, type_: str, error: BaseException) -> None:
        if type_ not in self._paused:
            self._paused.add(type_)
            metrics.CONSUMER_PAUSED.labels(type_).set(1)
            log.error(
                "every event of this type fails: a bad release? None is parked; they are tried again with back-off",
                type=type_,
                error=repr(error)[:500],
            )
