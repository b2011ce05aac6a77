"""Spans that this process made, as a tree."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared import tracing
from shared.process import otlp

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


@contextmanager
def collected(per_second: float = 1000.0) -> Iterator[InMemorySpanExporter]:
    """Switch tracing on within the block, and collect its spans."""
    exporter = InMemorySpanExporter()
    processor, resource = SimpleSpanProcessor(exporter), Resource({})
    tracing.switch_on(lambda ended: processor.on_end(otlp.readable(ended, resource)), per_second)
    try:
        yield exporter
    finally:
        tracing.switch_off()


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    """The span with this name; there is one."""
    [found] = [span for span in exporter.get_finished_spans() if span.name == name]
    return found


def tree(exporter: InMemorySpanExporter, trace_id: int) -> list[str]:
    """The names of a trace's spans, each indented below its parent. A consumer's span has the name of its group."""
    children: dict[int, list[ReadableSpan]] = {}
    ids = set()
    for span in exporter.get_finished_spans():
        if span.get_span_context().trace_id == trace_id:
            ids.add(span.get_span_context().span_id)
            children.setdefault(span.parent.span_id if span.parent else 0, []).append(span)
    roots = [span for parent, found in children.items() if parent not in ids for span in found]

    def lines(spans: Sequence[ReadableSpan], depth: int) -> list[str]:
        found: list[str] = []
        for span in sorted(spans, key=_title):
            found += ["  " * depth + _title(span), *lines(children.get(span.get_span_context().span_id, []), depth + 1)]
        return found

    return lines(roots, 0)


def _title(span: ReadableSpan) -> str:
    group = (span.attributes or {}).get(tracing.GROUP)
    return f"{span.name} by {group}" if group else span.name
