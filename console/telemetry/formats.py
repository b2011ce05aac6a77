"""A line of a log as the store has it: the ids by which lines are searched are columns."""

from console.telemetry.records import Line
from shared.process import lines

IDS = ("trace_id", "span_id", "event_id", "key")


def parse(raw: bytes, service: str, now_ns: int, before: Line | None = None) -> Line:
    """The line of a log. `before` is the line before it, whose time and level a line of a stack trace takes."""
    found = lines.parse(raw, service, now_ns, (before.at_ns, before.level) if before else None)
    trace_id, span_id, event_id, key = (_text(found.fields.pop(name, None)) for name in IDS)
    key = key or _text(found.fields.get("order_id"))
    return Line(0, found.at_ns, service, found.level, found.text, found.fields, trace_id, key, event_id, span_id)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and value != "" else None
