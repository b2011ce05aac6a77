"""Facts that a caller can act on; which HTTP status each becomes is decided in one table, in `shared/web.py`.

Services raise these, or name their own facts by inheriting from one of them.
"""


class Fact(Exception):
    """Something that is so; `detail` is a sentence for the client and never carries internals."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Invalid(Fact):
    """The request cannot be understood, or asks for something that is never possible."""


class NotFound(Fact):
    """There is no such thing, or the caller may not know of it."""


class Unauthenticated(Fact):
    """Nobody knows who the caller is: no token, or none that counts."""


class Forbidden(Fact):
    """The caller is known and may not do this."""


class TooMany(Fact):
    """The caller has tried too often, and may again in `seconds`."""

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class Conflict(Fact):
    """The thing is not in a state that allows this."""


class KeyReused(Fact):
    """The Idempotency-Key was used before, with another body."""


class Unavailable(Fact):
    """Postgres cannot be asked right now; the same request may be repeated."""


class Refused(Unavailable):
    """Nothing was done and nothing will be: the request never reached Postgres."""


class OutcomeUnknown(Unavailable):
    """The request reached Postgres and no answer came in time: it may have been done."""


class UnknownAggregate(Exception):
    """A handler was given events of aggregates that its service has never heard of; each is parked alone."""

    def __init__(self, events: list[object]) -> None:
        super().__init__(f"{len(events)} event(s) of unknown aggregates, the first: {events[0]!r:.200}")
        self.events = events
