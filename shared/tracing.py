"""Traces: one order is one trace, from its request through outbox and Kafka to its end (W3C Trace Context).

What must stay true: the root of a trace decides once whether the trace is sampled, by rate. The decision travels in the
flag of the `traceparent`, so work that is not sampled costs one comparison. Without an exporter no span is made, and
traceparents pass through unchanged. A span of work that was rolled back is not exported.
Attribute names are those of OpenTelemetry's semantic conventions 1.44; all of them are in this module.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from random import getrandbits
from typing import Literal, NamedTuple

Kind = Literal["INTERNAL", "SERVER", "CLIENT", "CONSUMER"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
METHOD, ROUTE, STATUS = "http.request.method", "http.route", "http.response.status_code"
SYSTEM, OPERATION, OPERATION_TYPE = "messaging.system", "messaging.operation.name", "messaging.operation.type"
DESTINATION, PARTITION = "messaging.destination.name", "messaging.destination.partition.id"
GROUP, OFFSET, MESSAGE_ID = "messaging.consumer.group.name", "messaging.kafka.offset", "messaging.message.id"
ERROR_TYPE = "error.type"
KEY = "quickbite.key"
"""The key of an event, such as the id of an order."""
OUTCOME, REASON = "quickbite.outcome", "quickbite.reason"
"""How an order ended."""
ROWS = "quickbite.rows"
"""How many rows a statement writes."""
OUTBOX_SECONDS = "quickbite.outbox.seconds"
"""How long a row waited in the outbox until the relay read it."""
CLIENT_TRACEPARENT = "quickbite.client.traceparent"
"""The traceparent that a client sent through the gateway, which does not pass it on as one."""

MAX_LINKS = 128
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class Rate:
    """A token bucket that lets `per_second` roots pass, in bursts of one second."""

    def __init__(self, per_second: float) -> None:
        self._per_second, self._tokens, self._at = per_second, max(1.0, per_second), time.monotonic()

    def passes(self) -> bool:
        """True if the next trace is sampled."""
        now = time.monotonic()
        self._tokens = min(max(1.0, self._per_second), self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1.0 or not self._per_second:
            return False
        self._tokens -= 1.0
        return True


class Ended(NamedTuple):
    """A span as it is exported. Ids are hexadecimal, times are nanoseconds since 1970."""

    name: str
    kind: Kind
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float]
    links: Sequence[str]
    """Traceparents."""
    failed: bool


class Span:
    """A part of a sampled trace that is not ended yet. One that is never ended is never exported."""

    __slots__ = ("_begun", "traceparent")

    def __init__(self, begun: Ended) -> None:
        """`begun` has everything but the end and the failure."""
        self._begun = begun
        self.traceparent = f"00-{begun.trace_id}-{begun.span_id}-01"

    @property
    def trace_id(self) -> str:
        return self._begun.trace_id

    def set(self, name: str, value: str | float) -> None:
        """Set an attribute."""
        self._begun.attributes[name] = value

    def end(self, error: BaseException | str | None = None, at_ns: int | None = None) -> None:
        """Export the span. `error` is an exception, or a short name of what went wrong."""
        if error is not None:
            self.set(ERROR_TYPE, error if isinstance(error, str) else type(error).__qualname__)
        if _export is not None:
            _export(self._begun._replace(end_ns=at_ns or time.time_ns(), failed=error is not None))


class _Work:
    """The content of one `carrying` block: traceparents by event key, and spans that wait for its end."""

    __slots__ = ("spans", "traceparents")

    def __init__(self, traceparents: Mapping[str, str]) -> None:
        self.traceparents = traceparents
        self.spans: list[tuple[Span, int]] = []


_work: ContextVar[_Work] = ContextVar("work")
_export: Callable[[Ended], None] | None = None
_rate = Rate(0.0)


def switch_on(export: Callable[[Ended], None], per_second: float) -> None:
    """Make spans from now on, of `per_second` traces. `export` is called with each; it must not wait."""
    global _export, _rate
    _export, _rate = export, Rate(per_second)


def switch_off() -> None:
    """Make no more spans."""
    global _export  # noqa: PLW0603
    _export = None


def is_on() -> bool:
    """True if spans are made."""
    return _export is not None


def valid(traceparent: str | None) -> str | None:
    """The header's value if it is a valid traceparent, else None."""
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


def is_sampled(traceparent: str | None) -> bool:
    """True if spans of this trace are made. The text is a valid traceparent, empty, or None."""
    return _export is not None and traceparent is not None and traceparent.endswith("1")


def ids(traceparent: str | None) -> dict[str, str]:
    """The ids of a sampled trace, for a log line. Empty if the trace is not sampled."""
    if traceparent is None or not is_sampled(traceparent):
        return {}
    return dict(zip(("trace_id", "span_id"), _ids(traceparent), strict=True))


def root(name: str, kind: Kind, attributes: Mapping[str, str | int | float]) -> Span | None:
    """Begin a new trace, if its turn has come."""
    return _begin(name, kind, None, attributes) if _export is not None and _rate.passes() else None


def start(
    name: str,
    kind: Kind,
    parent: str | None,
    attributes: Mapping[str, str | int | float],
    *,
    since: datetime | int | None = None,
) -> Span | None:
    """Begin a part of a sampled trace. `since` is its begin, if that is not now: a time, or nanoseconds since 1970.

    A consumer's span also has a link to its parent, as the conventions ask. Returns None if the trace is not sampled.
    """
    if parent is None or not is_sampled(parent):
        return None
    return _begin(name, kind, parent, attributes, since=since, links=[parent] if kind == "CONSUMER" else ())


def linked(
    name: str, kind: Kind, links: Sequence[str | None], attributes: Mapping[str, str | int | float]
) -> Span | None:
    """Begin a trace of its own that is linked to others. Returns None if none of them is sampled."""
    sampled = [link for link in links if link and is_sampled(link)]
    return _begin(name, kind, None, attributes, links=sampled[:MAX_LINKS]) if sampled else None


@contextmanager
def carrying(traceparents: Mapping[str, str]) -> Iterator[None]:
    """Within the block, events that are encoded get the traceparent of their key. `traceparents` is keyed by event key.

    The block may await. Only the current task, and tasks that it creates, see the mapping. Spans that were passed to
    `end_with_work` in the block are exported when the outermost block ends, unless this block raises.
    """
    outer, work = _work.get(None), _Work(traceparents)
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)
    if outer is not None:
        outer.spans += work.spans
        return
    for span, at_ns in work.spans:
        span.end(at_ns=at_ns)


def carried() -> Mapping[str, str]:
    """Traceparents by event key, as the innermost `carrying` set them. Empty outside of any `carrying`."""
    work = _work.get(None)
    return {} if work is None else work.traceparents


def of(key: str) -> str:
    """The traceparent for events of this key, or an empty text."""
    return carried().get(key, "")


def end_with_work(span: Span) -> None:
    """End a span now, but export it only if the `carrying` block ends without an error. Outside of one, at once."""
    work = _work.get(None)
    if work is None:
        span.end()
    else:
        work.spans.append((span, time.time_ns()))


def _begin(
    name: str,
    kind: Kind,
    parent: str | None,
    attributes: Mapping[str, str | int | float],
    *,
    since: datetime | int | None = None,
    links: Sequence[str] = (),
) -> Span:
    trace_id, parent_id = _ids(parent) if parent else (f"{getrandbits(128) | 1:032x}", None)
    span_id = f"{getrandbits(64) | 1:016x}"
    return Span(Ended(name, kind, trace_id, span_id, parent_id, _ns(since), 0, dict(attributes), links, failed=False))


def _ids(traceparent: str) -> tuple[str, str]:
    return traceparent[3:35], traceparent[36:52]


def _ns(moment: datetime | int | None) -> int:
    if moment is None:
        return time.time_ns()
    return int(moment.timestamp() * 1e9) if isinstance(moment, datetime) else moment
