"""Searches all files, newest first. All of it runs in one thread, which is not the writer's.

What must stay true: each search ends in time. Rows that were not read by then are missing from the answer, and the
answer is marked as not complete.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from heapq import nlargest
from pathlib import Path
from typing import Any

import structlog

from console.telemetry import rows, schema, words
from console.telemetry.files import Files
from console.telemetry.records import LEVELS, Lines, Span, TraceSummary, Wanted

log = structlog.get_logger()

SECONDS = 1.5
STEPS = 5000
"""After so many steps of its virtual machine SQLite asks whether time is over."""
LINES, TRACES, SPANS = 1000, 500, 5000
"""No answer is longer."""

INDEXED_LEVEL = LEVELS["warning"]
EVENT_WITHIN_NS, CLOCKS_DIFFER_NS = 300 * 10**9, 5 * 10**9
"""An event is looked for in traces that began so long before it, and a little after it."""

_TRACE_COLUMNS = "trace_id, name, service, start_ns, end_ns, spans, errors, key"

Select = tuple[str, list[Any]]


class Reader:
    def __init__(self, files: Files, suspect: Callable[[Path], None], seconds: float = SECONDS) -> None:
        self._files, self._suspect, self._seconds = files, suspect, seconds

    def lines(self, wanted: Wanted) -> Lines:
        limit = max(0, min(wanted.limit, LINES))
        found, complete = self._each(_select_lines(wanted, limit))
        lines = Lines(map(rows.to_line, nlargest(limit, found)))
        lines.complete = complete
        return lines

    def trace(self, trace_id: str) -> list[Span]:
        wanted = rows.identity(trace_id, 32)
        if wanted is None:
            return []
        found, _ = self._each((f"select * from spans where trace_id = ? limit {SPANS}", [wanted]))
        once = {row[1]: row for row in found[:SPANS]}
        return sorted(map(rows.to_span, once.values()), key=lambda span: (span.start_ns, -span.end_ns))

    def traces(self, select: Select, limit: int) -> list[TraceSummary]:
        """`select` is from `select_traces`. Of a trace in two files the later file has the whole summary."""
        found, _ = self._each(select)
        once: dict[bytes, tuple[Any, ...]] = {}
        for row in found:
            once.setdefault(row[0], row)
        return [_summary(row) for row in nlargest(limit, once.values(), key=lambda row: row[3])]

    def _each(self, select: Select) -> tuple[list[tuple[Any, ...]], bool]:
        """The rows of all files, and whether all were read."""
        until, found, complete = time.monotonic() + self._seconds, list[tuple[Any, ...]](), True
        for path in reversed(self._files.all()):
            try:
                found.extend(_rows(path, select, until))
            except schema.Outdated:
                complete = False
            except sqlite3.Error as error:
                complete = complete and not path.exists()
                if time.monotonic() >= until:
                    break
                self._judge(path, error)
        return found, complete

    def _judge(self, path: Path, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            self._suspect(path)
        elif path.exists():
            log.warning("a file of the telemetry store could not be read", file=path.name, error=repr(error)[:500])


def _rows(path: Path, select: Select, until: float) -> Iterator[tuple[Any, ...]]:
    with closing(schema.readable(path)) as conn:
        conn.set_progress_handler(lambda: time.monotonic() >= until, STEPS)
        yield from conn.execute(*select)


def _select_lines(wanted: Wanted, limit: int) -> Select:
    match = words.query(wanted.text)
    source, id_ = ("words join lines l on l.id = words.rowid", "words.rowid") if match else ("lines l", "l.id")
    level = LEVELS.get(wanted.level, 0)
    trace_id = rows.identity(wanted.trace_id, 32)
    since, until, before = (n if n is None else _fit(n) for n in (wanted.since_ns, wanted.until_ns, wanted.before_id))
    where: list[tuple[bool, str, Any]] = [
        (bool(match), "words match ?", match),
        (bool(wanted.service), "l.service = ?", rows.plain(wanted.service)),
        (level > 0, "l.level >= ?", level),
        (level >= INDEXED_LEVEL, f"l.level >= {INDEXED_LEVEL} and ?", 1),  # word for word the condition of the index
        (bool(wanted.key), "l.key = ?", rows.plain(wanted.key)),
        (bool(wanted.event_id), "l.event_id = ?", rows.plain(wanted.event_id)),
        (bool(wanted.trace_id), "l.trace_id = ?", trace_id),
        (since is not None, "l.at_ns >= ?", since),
        (since is not None, f"{id_} >= ?", _first_id(since or 0)),
        (until is not None, "l.at_ns <= ?", until),
        (until is not None, f"{id_} <= ?", _first_id(until or 0) + schema.STEP_NS - 1),
        (before is not None, f"{id_} < ?", before),
    ]
    conditions = " and ".join(condition for wanted_too, condition, _ in where if wanted_too) or "true"
    columns = "l.id, l.at_ns, l.service, l.level, l.text, l.fields, l.trace_id, l.span_id, l.key, l.event_id"
    sql = f"select {columns} from {source} where {conditions} order by {id_} desc limit {limit}"
    return sql, [value for wanted_too, _, value in where if wanted_too]


def select_traces(
    service: str, key: str, min_ms: float, errors_only: bool, before_ns: int | None, limit: int
) -> Select:
    conditions = ["end_ns - start_ns >= ?"]
    values: list[Any] = [_fit(int(max(0.0, min(min_ms, 1e9)) * 1e6))]
    if service:
        conditions.append("instr(services, ?)")
        values.append(f",{rows.plain(service)},")
    if key:
        conditions.append("trace_id in (select trace_id from spans where spans.key = ?)")
        values.append(rows.plain(key))
    if errors_only:
        conditions.append("errors")
    if before_ns is not None:
        conditions.append("start_ns < ?")
        values.append(_fit(before_ns))
    where = " and ".join(conditions)
    return f"select {_TRACE_COLUMNS} from traces where {where} order by start_ns desc limit {limit}", values


def select_traces_of_event(event_id: str, limit: int) -> Select:
    """Traces with a span of this event. There is no index: the id has the event's time, and its trace began before."""
    written_ns = int(event_id.replace("-", "")[:12], 16) * 1_000_000
    has_event = "exists (select 1 from spans where spans.trace_id = traces.trace_id and instr(spans.more, ?))"
    sql = f"select {_TRACE_COLUMNS} from traces where start_ns between ? and ? and {has_event}"
    bounds = [_fit(written_ns - EVENT_WITHIN_NS), _fit(written_ns + CLOCKS_DIFFER_NS)]
    return f"{sql} order by start_ns desc limit {limit}", [*bounds, event_id.lower().encode()]


def _summary(row: tuple[Any, ...]) -> TraceSummary:
    trace_id, name, service, start, end, spans, errors, key = row
    return TraceSummary(trace_id.hex(), name, service, start, end - start, spans, errors, key)


def _first_id(at_ns: int) -> int:
    """The smallest id that a line of this time can have."""
    return at_ns - at_ns % schema.STEP_NS


def _fit(number: int) -> int:
    return min(max(number, 0), rows.LAST_NS)
