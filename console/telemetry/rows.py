"""Turns records into rows and back.

What must stay true: whatever text comes in, the row fits into SQLite and is small. NUL and lone surrogates are
replaced, everything has a limit.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from console.telemetry.records import LEVELS, Line, Position, Scalar, Span
from shared import tracing

TEXT_CHARACTERS = 64 * 1024
ATTRIBUTE_CHARACTERS = 4096
NAME_CHARACTERS = 200
ATTRIBUTES, LINKS = 64, 128
LAST_NS = 2**63 - 1

_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_NAMES = {number: name for name, number in LEVELS.items()}


class SpanRow(NamedTuple):
    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    service: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    key: str | None
    more: bytes

    @property
    def size(self) -> int:
        return 400 + 4 * len(self.name) + len(self.more)


class LineRow(NamedTuple):
    id: int
    at_ns: int
    service: str
    level: int
    text: str
    fields: bytes | None
    trace_id: bytes | None
    span_id: bytes | None
    key: str | None
    event_id: str | None
    words: str
    position: Position | None

    @property
    def size(self) -> int:
        return 300 + _bytes(self.text) + _bytes(self.words) + 2 * len(self.fields or b"")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else 4 * len(text)


def plain(value: str, characters: int = NAME_CHARACTERS) -> str:
    """Text that SQLite stores and finds: cut, without NUL, and without halves of surrogate pairs."""
    value = value[:characters].replace("\0", "\ufffd")
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def identity(text: str | None, digits: int) -> bytes | None:
    """The bytes of a trace id (32 digits) or span id (16 digits), or None if it is not valid."""
    if not text or len(text) != digits or not _HEX.fullmatch(text := text.lower()) or not text.strip("0"):
        return None
    return bytes.fromhex(text)


def of_span(span: Span) -> SpanRow | None:
    """The row of a span, or None if its ids are not valid."""
    trace_id, span_id = identity(span.trace_id, 32), identity(span.span_id, 16)
    if trace_id is None or span_id is None:
        return None
    attributes = {plain(name): _scalar(value) for name, value in list(span.attributes.items())[:ATTRIBUTES] if name}
    key = attributes.get(tracing.KEY)
    start = min(max(span.start_ns, 0), LAST_NS)
    return SpanRow(
        trace_id,
        span_id,
        identity(span.parent_id, 16),
        plain(span.service),
        plain(span.name),
        plain(span.kind),
        start,
        min(max(span.end_ns, start), LAST_NS),
        plain(span.status),
        None if key is None else str(key)[:NAME_CHARACTERS],
        orjson.dumps([attributes, [link for link in span.links[:LINKS] if identity(link[0], 32)]]),
    )


def to_span(row: tuple[Any, ...]) -> Span:
    trace_id, span_id, parent_id, service, name, kind, start, end, status, _, more = row
    attributes, links = orjson.loads(more)
    parent = parent_id.hex() if parent_id else None
    pairs = [(trace, span) for trace, span in links]
    return Span(trace_id.hex(), span_id.hex(), parent, service, name, kind, start, end, status, attributes, pairs)


def _scalar(value: Scalar) -> Scalar:
    match value:
        case str():
            return plain(value, ATTRIBUTE_CHARACTERS)
        case float() if not math.isfinite(value):
            return str(value)
        case int() if not -(2**63) <= value <= LAST_NS:
            return str(value)[:NAME_CHARACTERS]
        case _:
            return value


def of_line(line: Line, position: Position | None = None) -> LineRow:
    """The row of a line whose `id` is set. Fields that are no JSON, or too large, are left out."""
    text = plain(line.text, TEXT_CHARACTERS)
    fields = _encoded(line.fields)
    return LineRow(
        line.id,
        min(max(line.at_ns, 0), LAST_NS),
        plain(line.service),
        LEVELS.get(line.level, LEVELS["info"]),
        text,
        fields,
        identity(line.trace_id, 32),
        identity(line.span_id, 16),
        plain(line.key) if line.key else None,
        plain(line.event_id) if line.event_id else None,
        _words(text, line.fields if fields else {}),
        position,
    )


def to_line(row: tuple[Any, ...]) -> Line:
    id_, at_ns, service, level, text, fields, trace_id, span_id, key, event_id = row
    return Line(
        id_,
        at_ns,
        service,
        _NAMES.get(level, "info"),
        text,
        orjson.loads(fields) if fields else {},
        trace_id.hex() if trace_id else None,
        key,
        event_id,
        span_id.hex() if span_id else None,
    )


def _encoded(fields: Mapping[str, Any]) -> bytes | None:
    if not fields:
        return None
    try:
        encoded = orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):  # nested too deep, or half a surrogate pair
        encoded = orjson.dumps({"unreadable": plain(ascii(list(fields)), ATTRIBUTE_CHARACTERS)})
    return encoded if len(encoded) <= TEXT_CHARACTERS else orjson.dumps({"cut": len(encoded)})


def _words(text: str, fields: Mapping[str, Any]) -> str:
    """The text that a search by words reads: the text of the line and the values of its fields."""
    if not fields:
        return text
    values = (value if isinstance(value, str) else str(value) for value in fields.values())
    return plain("\n".join((text, *values)), TEXT_CHARACTERS)
