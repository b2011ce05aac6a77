"""A trace as rows: spans with their place in time, and the log lines between them."""

from collections.abc import Sequence
from dataclasses import dataclass

from console.telemetry.records import Line as LogLine
from console.telemetry.records import Span

WIDTH = 1000
DEEPEST = 9


@dataclass(frozen=True, slots=True)
class Row:
    """A span or a log line. `left` and `width` are thousandths of the trace's time."""

    at_ns: int
    span: Span | None
    line: LogLine | None
    depth: int
    left: float
    width: float


def rows(spans: Sequence[Span], lines: Sequence[LogLine]) -> list[Row]:
    """All rows by time."""
    if not spans:
        return []
    start, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    scale = WIDTH / max(1, end - start)
    depths = _depths(spans)
    found = [
        Row(
            span.start_ns,
            span,
            None,
            depths[span.span_id],
            (span.start_ns - start) * scale,
            max(3.0, (span.end_ns - span.start_ns) * scale),
        )
        for span in spans
    ]
    for line in lines:
        left = min(max(0.0, (line.at_ns - start) * scale), WIDTH - 3.0)
        found.append(Row(line.at_ns, None, line, 0, left, 3.0))
    return sorted(found, key=lambda row: row.at_ns)


def _depths(spans: Sequence[Span]) -> dict[str, int]:
    """How deep each span is below its root. Parents may be missing or, in hostile data, form a circle."""
    parents = {span.span_id: span.parent_id for span in spans}
    found = {}
    for id_, parent in parents.items():
        depth, above = 0, parent
        while above in parents and depth < DEEPEST:
            depth, above = depth + 1, parents[above]
        found[id_] = depth
    return found
