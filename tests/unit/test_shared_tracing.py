"""Sampling by rate, and exporting to a receiver that does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import REGISTRY

from local import ports
from shared import tracing
from shared.process import exporting, otlp
from shared.process.configuration import Settings
from tests import spans


def settings(endpoint: str) -> Settings:
    return Settings(port=0, database_url="postgresql://x", otel_exporter_otlp_endpoint=endpoint, instance_id="orders-1")


def make_spans(count: int) -> None:
    for _ in range(count):
        span = tracing.start("work", "INTERNAL", spans.TRACEPARENT, {})
        assert span
        span.end()


def dropped() -> float:
    return REGISTRY.get_sample_value("tracing_spans_dropped_total") or 0.0


def test_so_many_traces_begin_each_second_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rate = tracing.Rate(2.0)
    assert [rate.passes() for _ in range(4)] == [True, True, False, False]
    now = 100.5
    assert [rate.passes() for _ in range(3)] == [True, False, False]
    now = 1000.0
    assert sum(rate.passes() for _ in range(100)) == 2


@pytest.mark.parametrize(("per_second", "expected"), [(0.0, 0), (0.1, 1)])
def test_a_rate_below_one_is_possible(per_second: float, expected: int) -> None:
    rate = tracing.Rate(per_second)
    assert sum(rate.passes() for _ in range(20)) == expected


def test_without_an_address_no_span_is_made() -> None:
    with exporting.spans(settings(""), "orders"):
        assert not tracing.is_on()
        assert tracing.root("work", "INTERNAL", {}) is None
        assert tracing.start("work", "INTERNAL", spans.TRACEPARENT, {}) is None
        assert tracing.ids(spans.TRACEPARENT) == {}


@pytest.fixture
async def received() -> AsyncIterator[tuple[str, list[ExportTraceServiceRequest]]]:
    requests: list[ExportTraceServiceRequest] = []

    async def receive(request: web.Request) -> web.Response:
        requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/otlp/v1/traces", receive)
    async with TestServer(app) as server:
        yield str(server.make_url("/otlp")), requests


async def test_spans_arrive_with_the_names_of_the_service_and_the_instance(
    received: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    address, requests = received
    before = dropped()

    def work() -> None:
        with exporting.spans(settings(address), "orders"):
            make_spans(3)

    await asyncio.to_thread(work)
    found = [resource for request in requests for resource in request.resource_spans]
    assert sum(len(scope.spans) for one in found for scope in one.scope_spans) == 3
    named = {attribute.key: attribute.value.string_value for attribute in found[0].resource.attributes}
    assert (named["service.name"], named["service.instance.id"]) == ("orders", "orders-1")
    assert found[0].schema_url == tracing.SCHEMA_URL
    assert dropped() == before


def test_without_a_receiver_spans_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "QUEUE", 50)
    monkeypatch.setattr(otlp, "BATCH", 50)
    before = dropped()
    with exporting.spans(settings(f"http://127.0.0.1:{ports.free_block(1)}"), "orders"):
        make_spans(200)
    assert 200 <= dropped() - before <= 201  # a span may end up in the queue while it is counted as lost
