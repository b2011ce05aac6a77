"""Text for pages. All text from events, headers and logs is hostile.

What must stay true: a character that moves, hides or reorders text is shown as its number, for example as [U+202E].
"""

import math
import re
from datetime import UTC, datetime
from typing import Any

import orjson
from markupsafe import Markup

_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_MARKS = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)

LONGEST = 20_000


def plain(text: str) -> str:
    """The text with odd characters as their numbers. Accents that pile up are cut."""
    return _ODD.sub(lambda found: f"[U+{ord(found[0]):04X}]", _MARKS.sub(r"\1", text))


def shown(value: object) -> object:
    """The text that a template shows for a value. The text is escaped afterwards."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return plain(str(value))


def pretty(value: object) -> str:
    """JSON for people. A text that is JSON is laid out too, unless it is long."""
    if isinstance(value, str):
        if len(value) > LONGEST:
            return value
        try:
            value = orjson.loads(value)
        except ValueError:
            return str(value)
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
    except (TypeError, ValueError):
        return str(value)


def cut(text: object, longest: int) -> str:
    """At most so many characters, with a mark where it was cut."""
    whole = str(shown(text)) if text is None or isinstance(text, bool) else str(text)
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"


def moment(value: Any) -> datetime | None:
    """A time of the admin API, a number of seconds, or None."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        found = datetime.fromisoformat(value)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def when(value: Any) -> str:
    """A time in UTC with milliseconds."""
    found = value if isinstance(value, datetime) else moment(value)
    return "-" if found is None else f"{found.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{found.microsecond // 1000:03d} UTC"


def of_ns(nanoseconds: int) -> str:
    return when(nanoseconds / 1e9)


def seconds_since(value: Any, now: float) -> float | None:
    found = value if isinstance(value, datetime) else moment(value)
    return None if found is None else now - found.timestamp()


def span(seconds: float | None) -> str:
    """A length of time: `12 ms`, `3.2 s`, `4 min`, `2 h`, `3 days`."""
    if seconds is None or math.isnan(seconds):
        return "-"
    size = abs(seconds)
    if size < 1:
        return f"{seconds * 1000:.1f} ms" if 0.0001 <= size < 0.00995 else f"{seconds * 1000:.0f} ms"
    if size < 60:
        return f"{seconds:.1f} s" if size < 10 else f"{seconds:.0f} s"
    for limit, unit in ((172_800, "days"), (7_200, "h"), (120, "min")):
        if size >= limit:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:.0f} {unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(count: float | None) -> str:
    """A number of bytes, for people."""
    if count is None:
        return "-"
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count:.0f} B"
