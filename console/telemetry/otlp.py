"""Spans in OTLP's wire format: read from protobuf, written as JSON.

Names of attributes follow OpenTelemetry's semantic conventions.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from console.telemetry.records import Scalar, Span

KINDS = ("internal", "internal", "server", "client", "producer", "consumer")
STATUSES = ("unset", "ok", "error")
KEPT_OF_RESOURCE = "service.instance.id"
TEXT_CHARACTERS = 4096
GROUPS, SPANS = 2000, 20_000
"""A body of 4 MB could have two million empty spans, which would cost a gigabyte as objects."""
PARTS = 128
"""So many attributes, links and events of one span are read."""


class Malformed(Exception):
    """The body is no OTLP request."""


def decode(body: bytes) -> list[Span]:
    """The spans of an `ExportTraceServiceRequest`. Raises `Malformed`. Ids are not checked, texts are not cut."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except (DecodeError, RecursionError) as error:
        raise Malformed("the body is no ExportTraceServiceRequest") from error
    groups = len(request.resource_spans) + sum(len(resource.scope_spans) for resource in request.resource_spans)
    if groups > GROUPS or sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans) > SPANS:
        raise Malformed(f"more than {SPANS} spans or {GROUPS} resources and scopes")
    spans: list[Span] = []
    for resource in request.resource_spans:
        about = _attributes(resource.resource.attributes)
        service = str(about.get("service.name", "unknown"))
        common = {KEPT_OF_RESOURCE: about[KEPT_OF_RESOURCE]} if KEPT_OF_RESOURCE in about else {}
        for scope in resource.scope_spans:
            spans.extend(_span(service, common, span) for span in scope.spans)
    return spans


def _span(service: str, common: dict[str, Scalar], span: trace_pb2.Span) -> Span:
    attributes = common | _attributes(span.attributes)
    if span.status.message:
        attributes["otel.status_description"] = span.status.message
    for event in span.events[:PARTS]:
        if event.name == "exception":
            attributes |= _attributes(event.attributes)
    return Span(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex() or None,
        service,
        span.name,
        _of(KINDS, span.kind),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _of(STATUSES, span.status.code),
        attributes,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links[:PARTS]],
    )


def _of(names: Sequence[str], number: int) -> str:
    """Enums are open: a newer sender may know more numbers."""
    return names[number] if 0 <= number < len(names) else names[0]


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Scalar]:
    return {pair.key: _value(pair.value) for pair in islice(pairs, PARTS)}


def _value(value: AnyValue) -> Scalar:
    """Lists and maps become text."""
    kind = value.WhichOneof("value")
    if kind in {"string_value", "int_value", "double_value", "bool_value"}:
        plain: Scalar = getattr(value, kind)
        return plain
    parts: Iterable[str] = ()
    if kind == "array_value":
        parts = (str(_value(one)) for one in value.array_value.values[:100])
    elif kind == "kvlist_value":
        parts = (f"{one.key}={_value(one.value)}" for one in value.kvlist_value.values[:100])
    elif kind == "bytes_value":
        parts = (value.bytes_value[:TEXT_CHARACTERS].hex(),)
    return ", ".join(parts)[:TEXT_CHARACTERS]


def otlp_json(spans: Sequence[Span]) -> dict[str, Any]:
    """A trace in OTLP's JSON, which other tools can import."""
    by_service: dict[str, list[Span]] = {}
    for span in spans:
        by_service.setdefault(span.service, []).append(span)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_pair("service.name", service)]},
                "scopeSpans": [{"scope": {"name": "quickbite"}, "spans": [_json(span) for span in its]}],
            }
            for service, its in by_service.items()
        ]
    }


def _json(span: Span) -> dict[str, Any]:
    return {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id or "",
        "name": span.name,
        "kind": KINDS.index(span.kind, 1) if span.kind in KINDS else 1,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": [_pair(name, value) for name, value in span.attributes.items()],
        "links": [{"traceId": trace_id, "spanId": span_id} for trace_id, span_id in span.links],
        "status": {"code": STATUSES.index(span.status) if span.status in STATUSES else 0},
    }


def _pair(name: str, value: Scalar) -> dict[str, Any]:
    match value:
        case bool():
            return {"key": name, "value": {"boolValue": value}}
        case int():
            return {"key": name, "value": {"intValue": str(value)}}
        case float():
            return {"key": name, "value": {"doubleValue": value}}
        case str():
            return {"key": name, "value": {"stringValue": value}}
