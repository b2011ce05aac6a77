"""Answers as text for a terminal."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell. The last one is not padded."""
    cells = [[line(value) for value in row] for row in [heads, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def ago(moment: str | None, now: datetime | None = None) -> str:
    """How long ago an RFC 3339 time was."""
    if moment is None:
        return "-"
    seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def size(count: int) -> str:
    """A number of bytes, for people."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def fields(found: dict[str, Any], indent: str = "  ") -> str:
    """A line for each field."""
    names = [line(name) for name in found]
    width = max(map(len, names), default=0)
    rows = zip(names, found.values(), strict=True)
    return "\n".join(f"{indent}{name.ljust(width)}  {line(value)}" for name, value in rows)


def line(value: object) -> str:
    """One line. Events are hostile: they may have control characters, which move the cursor of a terminal."""
    text = "-" if value is None else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)
