"""Errors that a caller can act on. `shared/web/problems.py` decides, in one table, which HTTP status each becomes.

A service raises these errors, or its own subclasses. A subclass is named after what is wrong: `OrderNotFound`,
`NameTaken`.
"""

from typing import ClassVar


class ServiceError(Exception):
    """The base class. `detail` is a sentence for the client, without internals. `text` is its default in a subclass."""

    text: ClassVar[str] = ""

    def __init__(self, detail: str = "") -> None:
        self.detail = detail or self.text
        super().__init__(self.detail)


class Invalid(ServiceError):
    """The request cannot be understood, or asks for something that is never possible."""


class NotJson(Invalid):
    """The body is not declared as JSON."""


class NotFound(ServiceError):
    """The thing does not exist, or the caller may not know that it does."""

    text = "not found"


class Unauthenticated(ServiceError):
    """There is no valid token, so the caller is unknown."""


class Forbidden(ServiceError):
    """The caller is known, and is not allowed to do this."""


class TooMany(ServiceError):
    """The caller has tried too often. The next try is allowed after `seconds`."""

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail)
        self.seconds = seconds


class Conflict(ServiceError):
    """The state of the thing does not allow this."""


class KeyReused(ServiceError):
    """The Idempotency-Key was used before, with another body."""


class Unavailable(ServiceError):
    """Postgres does not answer now. The client may repeat the same request."""

    text = "db error"


class Refused(Unavailable):
    """Nothing was done and nothing will be done: the request never reached Postgres."""


class OutcomeUnknown(Unavailable):
    """The request reached Postgres, but no answer came in time. It may have been done."""


class UnknownAggregate(Exception):
    """A handler got events of aggregates that its service does not know. The consumer parks each of them alone."""

    def __init__(self, events: list[object]) -> None:
        super().__init__(f"{len(events)} event(s) of unknown aggregates, the first: {events[0]!r:.200}")
        self.events = events
