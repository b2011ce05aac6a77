"""OpenTelemetry's exporter, with a limit for each of its waits, and a count of the spans that it drops.

Spans are made without OpenTelemetry's tracer (`tracing.py`): it takes 45 us for each, and this takes a fourth.
"""

from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace.status import Status, StatusCode

from .. import metrics, tracing
from ..tracing import Ended

QUEUE, BATCH = 4096, 512
_EVERY_MS = 2000  # a request takes 1 to 2 ms of CPU
_SEND_SECONDS = 2.0
_END_SECONDS = 2.0
_JOIN_SECONDS = 0.5


_SCOPE = InstrumentationScope("quickbite", schema_url=tracing.SCHEMA_URL)
_FLAGS = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_KINDS = trace.SpanKind.__members__
_OK, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


def readable(span: Ended, resource: Resource) -> ReadableSpan:
    """The span in the form that OpenTelemetry's exporters take."""
    trace_id = int(span.trace_id, 16)
    context = trace.SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=_FLAGS)
    parent = span.parent_id and trace.SpanContext(trace_id, int(span.parent_id, 16), is_remote=True, trace_flags=_FLAGS)
    links = [trace.Link(_context(link)) for link in span.links]
    return ReadableSpan(
        span.name,
        context,
        parent or None,
        resource,
        span.attributes,
        links=links,
        kind=_KINDS[span.kind],
        status=_FAILED if span.failed else _OK,
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(traceparent: str) -> trace.SpanContext:
    _, trace_id, span_id, _ = traceparent.split("-")
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_FLAGS)


class _Counted(SpanExporter):
    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch. If that fails, the batch is lost."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                metrics.SPANS_DROPPED.inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Sending(BatchSpanProcessor):
    """Sends spans to an OTLP/HTTP address, in batches, from a thread. A full queue loses its oldest spans."""

    def __init__(self, exporter: SpanExporter, resource: Mapping[str, str]) -> None:
        super().__init__(_Counted(exporter), QUEUE, _EVERY_MS, BATCH)
        self._resource = Resource(resource, tracing.SCHEMA_URL)

    def add(self, span: Ended) -> None:
        """Send a span soon."""
        self.on_end(readable(span, self._resource))

    def on_end(self, span: ReadableSpan) -> None:
        if len(self._batch_processor._queue) >= QUEUE:  # noqa: SLF001 - the SDK counts drops only for its own metrics
            metrics.SPANS_DROPPED.inc()
        super().on_end(span)

    def close(self) -> None:
        """Send what is left, for two seconds at most. The rest is dropped."""
        sending = self._batch_processor
        sending.shutdown(int(_END_SECONDS * 1000))
        sending._worker_thread.join(_JOIN_SECONDS)  # noqa: SLF001 - the shutdown has just ended its last attempt
        metrics.SPANS_DROPPED.inc(len(sending._queue))  # noqa: SLF001


def sending(address: str, resource: Mapping[str, str]) -> Sending:
    """Send to `address`, which ends with `/v1/traces`. `resource` describes the process, such as `service.name`."""
    return Sending(OTLPSpanExporter(address, timeout=_SEND_SECONDS), resource)
