"""OpenTelemetry's exporter, with a limit for each of its waits, and a count of what it drops."""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .. import metrics

QUEUE, BATCH = 4096, 512
_EVERY_MS = 1000
_SEND_SECONDS = 2.0
_END_SECONDS = 2.0
_JOIN_SECONDS = 0.5


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

    def __init__(self, exporter: SpanExporter) -> None:
        super().__init__(_Counted(exporter), QUEUE, _EVERY_MS, BATCH)

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


def processor(address: str) -> Sending:
    """A processor that sends to `address`, which ends with `/v1/traces`."""
    return Sending(OTLPSpanExporter(address, timeout=_SEND_SECONDS))
