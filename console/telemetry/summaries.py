"""One row per trace, kept up while its spans arrive, so that a list of traces reads no spans."""

import sqlite3
from collections import OrderedDict, defaultdict
from collections.abc import Iterable

from console.telemetry.rows import SpanRow

KNOWN = 5000

Summary = tuple[int, str, str, int, int, int, int, str | None, str]
"""rooted, name, service, start_ns, end_ns, spans, errors, key, services (each between two commas)"""


class Summaries:
    """Remembers the traces of last, so that a trace that continues in the next file is counted as one there."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Summary] = OrderedDict()

    def forget(self) -> None:
        """Call after a rollback: what is known was not stored."""
        self._known.clear()

    def update(self, conn: sqlite3.Connection, spans: Iterable[SpanRow]) -> None:
        """Add new spans to the rows of their traces, in the caller's transaction."""
        by_trace: defaultdict[bytes, list[SpanRow]] = defaultdict(list)
        for span in spans:
            by_trace[span.trace_id].append(span)
        for trace_id, its in by_trace.items():
            known = self._known.pop(trace_id, None) or _stored(conn, trace_id)
            self._known[trace_id] = _with(known, its)
        conn.executemany(
            "insert or replace into traces values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((trace_id, *self._known[trace_id]) for trace_id in by_trace),
        )
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)


def _stored(conn: sqlite3.Connection, trace_id: bytes) -> Summary | None:
    sql = "select rooted, name, service, start_ns, end_ns, spans, errors, key, services from traces where trace_id = ?"
    row: Summary | None = conn.execute(sql, (trace_id,)).fetchone()
    return row


def _with(known: Summary | None, spans: list[SpanRow]) -> Summary:
    """The span without a parent names the trace; until it arrives, the earliest span does."""
    roots = [span for span in spans if span.parent_id is None]
    first = min(roots or spans, key=lambda span: span.start_ns)
    rooted, name, service, start, end = int(bool(roots)), first.name, first.service, first.start_ns, first.end_ns
    count, errors, key, services = 0, 0, None, ","
    if known is not None:
        if (known[0], -known[3]) >= (rooted, -start):
            rooted, name, service = known[:3]
        start, end = min(start, known[3]), max(end, known[4])
        count, errors, key, services = known[5:]
    for span in spans:
        start, end = min(start, span.start_ns), max(end, span.end_ns)
        count, errors, key = count + 1, errors + (span.status == "error"), key or span.key
        if f",{span.service}," not in services and len(services) < 2000:
            services += f"{span.service},"
    return rooted, name, service, start, end, count, errors, key, services
