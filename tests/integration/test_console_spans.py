"""The OTLP receiver on a real server: what it takes, what it refuses, what it forwards."""

import asyncio
import base64
import gzip
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from google.protobuf import json_format
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from console.telemetry import spans, store
from console.telemetry.forwarding import Forwarder
from console.telemetry.otlp import Malformed, decode, otlp_json
from console.telemetry.records import Span
from console.telemetry.spans import RECEIVER, Receiver
from console.telemetry.store import Telemetry
from shared.web import application
from tests.builders import eventually

Client = TestClient[web.Request, web.Application]
PATH, PROTOBUF = "/otlp/v1/traces", {"Content-Type": "application/x-protobuf"}
GZIP = PROTOBUF | {"Content-Encoding": "gzip"}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def request(*names: str, trace_id: bytes = bytes.fromhex(TRACE)) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for number, name in enumerate(names):
        scope.spans.add(trace_id=trace_id, span_id=bytes.fromhex(f"{number + 1:016x}"), name=name)
    return message


@asynccontextmanager
async def serving(receiver: Receiver) -> AsyncIterator[Client]:
    app = application.create()
    app[RECEIVER] = receiver
    app.add_routes(spans.routes)
    async with TestClient(TestServer(app)) as client:
        yield client


@pytest.fixture
async def telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Telemetry]:
    monkeypatch.setattr(store, "PAUSE_SECONDS", 0.02)
    started, stop = Telemetry(tmp_path / "store"), asyncio.Event()
    task = asyncio.create_task(started.run(stop))
    yield started
    stop.set()
    await task


@pytest.fixture
async def client(telemetry: Telemetry) -> AsyncIterator[Client]:
    async with serving(Receiver(telemetry)) as started:
        yield started


async def names(telemetry: Telemetry) -> list[str]:
    return [span.name for span in await telemetry.trace(TRACE)]


async def still_works(client: Client, telemetry: Telemetry) -> None:
    answer = await client.post(PATH, data=request("fine").SerializeToString(), headers=PROTOBUF)
    assert answer.status == 200
    assert await eventually(lambda: names(telemetry)) == ["fine"]


async def test_spans_of_the_sdk_arrive_with_everything_that_is_kept(client: Client, telemetry: Telemetry) -> None:
    def send() -> str:
        provider = TracerProvider(resource=Resource({"service.name": "orders", "service.instance.id": "orders-1"}))
        exporter = OTLPSpanExporter(endpoint=str(client.make_url(PATH)), timeout=5)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
        with tracer.start_as_current_span("cause") as cause:
            pass
        attributes = {"quickbite.key": "17", "n": 3, "x": 0.5, "yes": True, "list": ["a", "b"]}
        with tracer.start_as_current_span("root", kind=otel.SpanKind.SERVER):
            link = otel.Link(cause.get_span_context())
            span = tracer.start_span("child", kind=otel.SpanKind.CONSUMER, attributes=attributes, links=[link])
            span.record_exception(ValueError("why"))
            span.set_status(otel.StatusCode.ERROR, "it failed")
            span.end()
        provider.shutdown()
        return f"{span.get_span_context().trace_id:032x}"

    trace_id = await asyncio.to_thread(send)

    async def both() -> list[Span] | None:
        found = await telemetry.trace(trace_id)
        return found if len(found) == 2 else None

    root, child = await eventually(both)
    assert (root.service, root.name, root.kind, root.parent_id, root.status) == (
        "orders",
        "root",
        "server",
        None,
        "unset",
    )
    assert (child.kind, child.parent_id, child.status) == ("consumer", root.span_id, "error")
    assert child.start_ns >= root.start_ns
    assert len(child.links) == 1
    kept = {"quickbite.key": "17", "n": 3, "x": 0.5, "yes": True, "list": "a, b", "service.instance.id": "orders-1"}
    assert kept.items() <= child.attributes.items()
    assert child.attributes["exception.message"] == "why"
    assert child.attributes["otel.status_description"] == "it failed"


async def test_a_gzipped_body_is_taken(client: Client, telemetry: Telemetry) -> None:
    answer = await client.post(PATH, data=gzip.compress(request("zipped").SerializeToString()), headers=GZIP)
    assert answer.status == 200
    assert await eventually(lambda: names(telemetry)) == ["zipped"]


async def test_a_body_larger_than_other_requests_is_taken(client: Client, telemetry: Telemetry) -> None:
    body = request("x" * 3_000_000).SerializeToString()
    assert (await client.post(PATH, data=BytesIO(body), headers=PROTOBUF)).status == 200
    assert await eventually(lambda: names(telemetry)) == ["x" * 200]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xff" * 100, PROTOBUF),
        (request("cut").SerializeToString()[:-3], PROTOBUF),
        (b"not gzip", GZIP),
        (gzip.compress(b"\xff" * 1000, mtime=0), GZIP),
        (b"{}", {"Content-Type": "application/json"}),
        (b"\x0a\x08\x12\x06\x12\x04\x2a\x02\xff\xfe", PROTOBUF),  # a name that is not UTF-8
    ],
)
async def test_a_malformed_body_is_refused_and_does_no_harm(
    client: Client, telemetry: Telemetry, body: bytes, headers: dict[str, str]
) -> None:
    answer = await client.post(PATH, data=body, headers=headers)
    assert answer.status == 400
    assert "Traceback" not in await answer.text()
    await still_works(client, telemetry)


async def test_a_gzip_that_ends_too_early_is_refused(client: Client, telemetry: Telemetry) -> None:
    body = gzip.compress(random.Random(1).randbytes(5000))[:2000]
    assert (await client.post(PATH, data=body, headers=GZIP)).status == 400
    await still_works(client, telemetry)


async def test_a_body_that_is_too_large_is_refused(client: Client, telemetry: Telemetry) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 65_536

    for body in (BytesIO(b"x" * (spans.BODY_BYTES + 1)), endless()):
        with suppress(aiohttp.ClientConnectionError):  # the server hangs up on a client that goes on sending
            assert (await client.post(PATH, data=body, headers=PROTOBUF)).status == 413
    await still_works(client, telemetry)


async def test_a_gzip_bomb_is_refused_before_it_is_unpacked(client: Client, telemetry: Telemetry) -> None:
    bomb = gzip.compress(bytes(200_000_000), 9, mtime=0)
    assert len(bomb) < 300_000
    assert (await client.post(PATH, data=bomb, headers=GZIP)).status == 413
    await still_works(client, telemetry)


async def test_a_body_of_two_million_empty_spans_is_refused(client: Client, telemetry: Telemetry) -> None:
    def nested(tag: bytes, content: bytes) -> bytes:
        size = len(content)
        return tag + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21]) + content

    body = nested(b"\x0a", nested(b"\x12", b"\x12\x00" * (spans.BODY_BYTES // 2 - 10)))
    assert (await client.post(PATH, data=BytesIO(body), headers=PROTOBUF)).status == 400
    await still_works(client, telemetry)


async def test_a_client_that_stops_in_the_middle_does_no_harm(client: Client, telemetry: Telemetry) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {PROTOBUF['Content-Type']}\r\n".encode())
    writer.write(b"Content-Length: 1000\r\n\r\nabc")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    await still_works(client, telemetry)


async def test_a_body_that_does_not_arrive_is_refused(
    client: Client, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "ARRIVAL_SECONDS", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    assert (await client.post(PATH, data=slow(), headers=PROTOBUF)).status == 408
    monkeypatch.undo()
    await still_works(client, telemetry)


async def test_random_bodies_never_raise() -> None:
    chance = random.Random(3)
    start = request("one", "two").SerializeToString()
    for _ in range(3000):
        raw = bytearray(start)
        for _ in range(chance.randrange(1, 8)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            decode(bytes(raw))
        except Malformed:
            continue


async def test_a_store_without_room_asks_to_wait(tmp_path: Path) -> None:
    full = Telemetry(tmp_path)  # it does not run
    async with serving(Receiver(full)) as client:
        body = request(*["x"] * 9000).SerializeToString()
        answers = [await client.post(PATH, data=body, headers=PROTOBUF) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[-1].headers["Retry-After"] == "1"
        assert full.dropped["spans"] == 0


async def test_spans_without_valid_ids_are_counted_in_the_answer(client: Client, telemetry: Telemetry) -> None:
    answer = await client.post(PATH, data=request("x", trace_id=b"short").SerializeToString(), headers=PROTOBUF)
    assert answer.status == 200
    assert ExportTraceServiceResponse.FromString(await answer.read()).partial_success.rejected_spans == 1
    assert telemetry.dropped["spans"] == 1


async def test_only_so_many_bodies_are_in_memory(client: Client, telemetry: Telemetry) -> None:
    finish = asyncio.Event()
    body = request("fine").SerializeToString()

    async def slow() -> AsyncIterator[bytes]:
        yield body[:1]
        await finish.wait()
        yield body[1:]

    waiting = [asyncio.create_task(client.post(PATH, data=slow(), headers=PROTOBUF)) for _ in range(spans.BODIES)]

    receiver = client.app[RECEIVER]
    await eventually(lambda: asyncio.sleep(0, receiver._bodies == spans.BODIES))
    assert (await client.post(PATH, data=body, headers=PROTOBUF)).status == 429
    finish.set()
    assert {(await one).status for one in waiting} == {200}
    await still_works(client, telemetry)


async def test_what_is_taken_is_forwarded_and_an_endpoint_that_fails_costs_only_its_own(telemetry: Telemetry) -> None:
    received: list[bytes] = []
    statuses = [503, 200, 400, 200]

    async def take(request: web.Request) -> web.Response:
        status = statuses.pop(0)
        if status == 200:
            received.append(await request.read())
        return web.Response(status=status)

    app = web.Application(client_max_size=10**7)
    app.router.add_post("/v1/traces", take)
    async with TestServer(app) as other:
        forwarder = Forwarder(str(other.make_url("/")), telemetry)
        stop = asyncio.Event()
        task = asyncio.create_task(forwarder.run(stop, lambda: None))
        bodies = [request(name).SerializeToString() for name in ("first", "refused", "third")]
        async with serving(Receiver(telemetry, forwarder)) as client:
            for body in bodies:
                assert (await client.post(PATH, data=gzip.compress(body, mtime=0), headers=GZIP)).status == 200
            await eventually(lambda: asyncio.sleep(0, len(received) == 2))
        stop.set()
        await task
    assert received == [bodies[0], bodies[2]]
    assert telemetry.dropped["forwarded"] == 1


async def test_forwarding_to_nobody_is_bounded(telemetry: Telemetry) -> None:
    forwarder = Forwarder("http://127.0.0.1:1", telemetry)
    for _ in range(250):
        forwarder.add(b"x")
    assert telemetry.dropped["forwarded"] == 50


def as_protobuf_json(exported: dict[str, object]) -> ExportTraceServiceRequest:
    """OTLP writes ids in hex, where protobuf's own JSON has base64."""
    whole = orjson.loads(orjson.dumps(exported))
    message = ExportTraceServiceRequest()
    for resource in whole["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:
            for one in (span, *span["links"]):
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in one:
                        one[name] = base64.b64encode(bytes.fromhex(one[name])).decode()
    json_format.ParseDict(whole, message)
    return message


def test_an_exported_trace_reads_back_as_the_same_spans() -> None:
    attributes = {"quickbite.key": "17", "n": 2**60, "x": 0.5, "yes": True, "html": "<script>\u202e"}
    whole = [
        Span(TRACE, SPAN, None, "orders", "root", "server", 5, 9, "unset", {}, []),
        Span(TRACE, SPAN[::-1], SPAN, "payments", "charge", "client", 6, 8, "error", attributes, [(TRACE, SPAN)]),
    ]
    assert decode(as_protobuf_json(otlp_json(whole)).SerializeToString()) == whole
