"""Understands a line of a log: JSON of services, nginx and Postgres; text of Kafka, nginx, supervisord or anything.

What must stay true: every line is understood somehow, whatever its bytes are. Nothing here raises.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

LEVELS = {
    **dict.fromkeys(("trace", "debug", "debug1", "debug2", "debug3", "debug4", "debug5"), "debug"),
    **dict.fromkeys(("info", "notice", "log", "statement", "detail", "hint", "context"), "info"),
    **dict.fromkeys(("warn", "warning"), "warning"),
    **dict.fromkeys(("error", "exception", "err"), "error"),
    **dict.fromkeys(("critical", "fatal", "panic", "crit", "alert", "emerg"), "critical"),
}
TIMES, NAMES_OF_LEVEL = ("timestamp", "time"), ("level", "error_severity")
TEXTS = ("event", "message", "msg", "request")
FIRST_NS, AHEAD_NS = 10**18, 3600 * 10**9
"""A time before 2001, or further ahead than an hour, is wrong."""

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_TEXT = re.compile(
    r"\[?(?P<time>\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?)(?: ?(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d))?\]?"
    r"\s*(?:\[\d+\]\s*)?(?:\[?(?P<level>[A-Za-z]{3,9}\d?)\b\]?:?\s)?\s*(?P<text>.*)",
    re.ASCII | re.DOTALL,
)
_PAIR = re.compile(
    r'"(timestamp|time|level|error_severity|trace_id|span_id|event_id|key|order_id)": ?"?([^"\\,}]{1,200})'
)
_CONTINUED = ("\t", " ", "Caused by: ")


@dataclass(frozen=True, slots=True)
class Line:
    """What a line has: nanoseconds since 1970, one of the values of `LEVELS`, and all other fields."""

    at_ns: int
    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def parse(raw: bytes, service: str, now_ns: int, before: tuple[int, str] | None = None) -> Line:
    """A line of the log of `service`. `before` is the time and level of the line before it.

    A line of a stack trace takes them.
    """
    text = raw.decode("utf-8", "replace").removesuffix("\r")
    if text.startswith("{"):
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:  # cut or broken: what can be read of it
            return _of_fields(dict(_PAIR.findall(text)), text, service, now_ns)
        return _of_fields(found, "", service, now_ns)
    if matched := _TEXT.match(text):
        return _of_text(matched, text, now_ns)
    if before is not None and text.startswith(_CONTINUED):
        return Line(*before, text)
    return Line(now_ns, "info", text)


def _of_fields(found: dict[str, Any], text: str, service: str, now_ns: int) -> Line:
    """`text` is what to show if no field has it."""
    at_ns = moment(_pop(found, TIMES), now_ns)
    level = LEVELS.get(str(_pop(found, NAMES_OF_LEVEL)).lower(), "info")
    shown = text or _pop(found, TEXTS)
    if found.get("service") == service:
        del found["service"]
    if shown is None:
        shown = orjson.dumps(found, default=str).decode() if _flat(found) else "(no text)"
    return Line(at_ns, level, str(shown), found)


def _flat(found: dict[str, Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in found.values())


def _pop(found: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Remove and return the first of these fields that has a value."""
    for name in names:
        if found.get(name) is not None and found[name] != "":
            return found.pop(name)
    return None


def _of_text(matched: re.Match[str], text: str, now_ns: int) -> Line:
    word, rest = matched["level"], matched["text"]
    level = LEVELS.get((word or "").lower())
    if level is None and word:
        rest = text[matched.start("level") :].lstrip("[")
    zone = {"UTC": "Z", "GMT": "Z", None: ""}.get(matched["zone"], matched["zone"])
    at_ns = moment(f"{matched['time'].replace('/', '-')}{zone}", now_ns)
    return Line(at_ns, level or "info", rest)


def moment(value: object, now_ns: int) -> int:
    """Nanoseconds since 1970 of ISO 8601, of Postgres' format, or of seconds. Returns `now_ns` if it makes no sense.

    A time without a zone is this machine's.
    """
    try:
        at_ns = _nanoseconds(value)
    except (ValueError, OverflowError, OSError):
        return now_ns
    return at_ns if FIRST_NS < at_ns <= now_ns + AHEAD_NS else now_ns


def _nanoseconds(value: object) -> int:
    if isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        text = value[:-4] + "Z" if value.endswith((" UTC", " GMT")) else value
        at = datetime.fromisoformat(text)
        return (at.astimezone(UTC) - _EPOCH) // _MICROSECOND * 1000
    if isinstance(value, str | int | float):
        return round(float(value) * 1e6) * 1000
    raise ValueError("no time")
