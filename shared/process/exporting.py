"""Exporting spans, if an address for them is set.

What must stay true: a receiver that is slow, full or gone costs the service no more than a bounded queue.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from .. import tracing
from .configuration import Settings


@contextmanager
def spans(settings: Settings, service: str) -> Iterator[None]:
    """Export spans within the block, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Its end takes two seconds at most."""
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    from .otlp import sending  # noqa: PLC0415 - OpenTelemetry is loaded only if it is used

    resource = {"service.name": service, "service.instance.id": settings.owner}
    sender = sending(settings.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces", resource)
    tracing.switch_on(sender.add, settings.traces_per_second)
    try:
        yield
    finally:
        tracing.switch_off()
        sender.close()
