"""The steps of one key in all services, by time, and what the waits between them were.

What must stay true: the steps come from the services' own tables, so none is missing because a trace was not sampled.
Spans only divide a wait into its parts.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from console.pages import text
from console.services import Answer
from console.telemetry.records import Span
from shared import tracing


@dataclass(slots=True)
class Step:
    """One row or event of a service. `waits` are the parts of the time since the step before it."""

    at: datetime
    service: str
    what: str
    state: str
    event: Mapping[str, Any] = field(default_factory=dict)
    after: float = 0.0
    waits: list[tuple[str, float]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """A word for the shape of its mark."""
        for kind in ("parked", "refused", "not published"):
            if self.state.startswith(kind):
                return kind
        return "request" if not self.event else "event"

    @property
    def topic(self) -> str:
        """The topic of the event; for a dead letter, that of the parked event."""
        return str(self.event.get("topic", "")).removesuffix(".dlq")

    @property
    def position(self) -> str:
        """Partition and offset in Kafka, from the service's answer or from a span."""
        known = [self.event, *(span.attributes for span in self.spans)]
        partition = _first(known, "partition", tracing.PARTITION)
        offset = _first(known, "offset", tracing.OFFSET)
        return f"{partition} / {offset}" if partition is not None and offset is not None else "-"


def steps(answers: Sequence[Answer], spans: Sequence[Span]) -> tuple[list[Step], list[Step]]:
    """All steps by time, with their waits; and those of another thing that has the same key.

    An order and a user can have the same number. Services with a row of the key know the thing that is meant, and so do
    services that got its events.
    """
    ordered = sorted(_all(answers), key=lambda one: one.at)
    knowing = {one.service for one in answers if not one.missing and one.body["row"]}
    topics = {step.topic for step in ordered if step.service in knowing}
    found = [step for step in ordered if not knowing or step.service in knowing or step.topic in topics]
    others = [step for step in ordered if step not in found]
    of_event: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if event_id := span.attributes.get(tracing.MESSAGE_ID):
            of_event[str(event_id)].append(span)
    for step in found:
        step.spans = of_event.get(str(step.event.get("event_id", "")), [])
    for before, step in pairwise(found):
        step.after = (step.at - found[0].at).total_seconds()
        step.waits = list(_waits(before, step))
    return found, others


def _all(answers: Sequence[Answer]) -> Iterator[Step]:
    rows = [(at, one) for one in answers if not one.missing and (at := _created(one)) is not None]
    if rows:  # the service that has the oldest row got the request
        at, one = min(rows, key=lambda pair: pair[0])
        yield Step(at, one.service, "request accepted", "")
    for one in answers:
        for event in [] if one.missing else one.body["events"]:
            if (moment := text.moment(event.get("at"))) is not None:
                yield Step(moment, one.service, str(event["what"]), str(event["state"]), event)


def _created(one: Answer) -> datetime | None:
    row = one.body.get("row")
    return text.moment(row.get("created_at")) if row else None


def _waits(before: Step, step: Step) -> Iterator[tuple[str, float]]:
    whole = (step.at - before.at).total_seconds()
    if before.service == step.service:
        yield f"in {step.service}", whole
        return
    sent = next((s for s in before.spans if s.kind in {"client", "producer"}), None)
    handled = next((s for s in before.spans if s.kind == "consumer" and s.service == step.service), None)
    if sent is None or handled is None:
        yield f"in the outbox of {before.service}, in Kafka and in {step.service}", whole
        return
    written = before.at.timestamp()
    yield f"in the outbox of {before.service}", max(0.0, sent.end_ns / 1e9 - written)
    yield "in Kafka", max(0.0, (handled.start_ns - sent.end_ns) / 1e9)
    yield f"in the handler of {step.service}", max(0.0, step.at.timestamp() - handled.start_ns / 1e9)


def _first(places: Sequence[Mapping[str, Any]], *names: str) -> Any:
    return next((place[name] for place in places for name in names if place.get(name) is not None), None)
