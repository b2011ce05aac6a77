"""The records of the store, and the conditions of a search."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Span:
    """`trace_id` is 32 hex digits, `span_id` and `parent_id` are 16. `links` are pairs of trace id and span id."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    attributes: dict[str, Scalar] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Line:
    """A log line. The store chooses `id`: larger ids are later, to the millisecond. It is larger than 2**53."""

    id: int
    at_ns: int
    service: str
    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    trace_id: str | None = None
    key: str | None = None
    event_id: str | None = None
    span_id: str | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    trace_id: str
    root_name: str
    service: str
    start_ns: int
    duration_ns: int
    spans: int
    errors: int
    key: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A search of log lines: every condition that is not empty must hold. `level` means this level and above.

    `before_id` continues a search: it is the id of the last line of the page before.
    """

    text: str = ""
    service: str = ""
    level: str = ""
    key: str = ""
    event_id: str = ""
    trace_id: str = ""
    since_ns: int | None = None
    until_ns: int | None = None
    before_id: int | None = None
    limit: int = 200


class Lines(list[Line]):
    """Lines that were found, newest first. `complete` is False if the search ran out of time or met a broken file."""

    complete = True


class Position(NamedTuple):
    """How far a log file has been read. `head` has its first bytes: an inode's number can be used again.

    `skipping`: the position is within a line that was too long, and whose first part is stored.
    """

    file: str
    inode: str
    offset: int
    head: bytes
    skipping: bool = False
