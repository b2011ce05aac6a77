"""Spans of events: from the outbox to Kafka (`send`), and from Kafka to the effects (`process`).

A span of an event belongs to the trace of the span that wrote it. The event of a state (`Handling`) is read for years,
by every new replica. So processing it begins a trace of its own, with a link.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from .. import tracing
from ..tracing import Span
from . import events
from .events import Received
from .lanes import Row


def sent(rows: Iterable[Row], read_ns: int, failed: Iterable[Row] = ()) -> None:
    """Export a span for each row whose trace is sampled: it was read at `read_ns`, and Kafka has just answered."""
    if not tracing.is_on():
        return
    refused = {id(row) for row in failed}
    for row in rows:
        if not row["head"].endswith(b"1"):  # the time of a row without a trace ends with Z
            continue
        written = datetime.fromisoformat(events.time_of(row["head"])).timestamp()
        attributes = {
            tracing.SYSTEM: "kafka",
            tracing.OPERATION: "send",
            tracing.OPERATION_TYPE: "send",
            tracing.DESTINATION: row["topic"],
            tracing.MESSAGE_ID: events.text_of_id(row["head"]),
            tracing.KEY: row["key"],
            tracing.OUTBOX_SECONDS: max(0.0, read_ns / 1e9 - written),
        }
        parent = events.traceparent_of(row["head"])
        if span := tracing.start(f"send {row['topic']}", "CLIENT", parent, attributes, since=read_ns):
            span.end("refused" if id(row) in refused else None)


def processing(
    batch: Sequence[Received], consumer: str, states: Collection[type]
) -> tuple[list[Received], dict[UUID, Span]]:
    """Begin a span for each sampled event. Returns the batch with the new traceparents, and the spans by id."""
    if not tracing.is_on() or not any(tracing.is_sampled(one.traceparent) for one in batch):
        return list(batch), {}
    spans: dict[UUID, Span] = {}
    for one in batch:
        if span := begin(one, consumer, is_state=type(one.event) in states):
            spans[one.event_id] = span
    carried = [replace(r, traceparent=spans[r.event_id].traceparent) if r.event_id in spans else r for r in batch]
    return carried, spans


def begin(one: Received, consumer: str, *, is_state: bool = False) -> Span | None:
    """Begin the span of one event, if its trace is sampled."""
    record = one.record
    attributes: dict[str, str | int | float] = {
        tracing.SYSTEM: "kafka",
        tracing.OPERATION: "process",
        tracing.OPERATION_TYPE: "process",
        tracing.DESTINATION: record.topic,
        tracing.PARTITION: str(record.partition),
        tracing.OFFSET: record.offset,
        tracing.GROUP: consumer,
        tracing.MESSAGE_ID: str(one.event_id),
        tracing.KEY: one.key,
    }
    name = f"process {record.topic}"
    if is_state:
        return tracing.linked(name, "CONSUMER", [one.traceparent], attributes)
    return tracing.start(name, "CONSUMER", one.traceparent, attributes)


def failed(one: Received, consumer: str, error: BaseException) -> None:
    """Export a span for one attempt at an event that failed."""
    if span := begin(one, consumer):
        span.end(error)
