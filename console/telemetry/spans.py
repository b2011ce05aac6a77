"""Receives traces: OTLP over HTTP with protobuf, as every OpenTelemetry SDK sends them.

What must stay true: whatever arrives costs a bounded amount of memory. A body that is refused is refused as a whole.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from console.telemetry import otlp
from console.telemetry.forwarding import Forwarder
from console.telemetry.store import Telemetry

BODY_BYTES = 4 * 1024 * 1024
"""After decompression, which happens in small pieces."""
BODIES = 8
"""So many bodies are in memory at once. One of them is decoded."""
ARRIVAL_SECONDS = 10.0
RETRY_AFTER = {"Retry-After": "1"}
PROTOBUF = "application/x-protobuf"

routes = web.RouteTableDef()


class Refused(Exception):
    def __init__(self, status: HTTPStatus, text: str) -> None:
        self.status = status
        super().__init__(text)


class Receiver:
    """Takes bodies for a store. With a forwarder, all that is accepted goes there too."""

    def __init__(self, telemetry: Telemetry, forwarder: Forwarder | None = None) -> None:
        self._telemetry, self._forwarder = telemetry, forwarder
        self._decoding = ThreadPoolExecutor(1, "otlp-decoder")
        self._bodies = 0

    async def take(self, request: web.Request) -> int:
        """Add the spans of a request. Returns how many were not accepted. Raises `Refused`."""
        if self._bodies >= BODIES or not self._telemetry.has_room_for_spans():
            raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "too much at once")
        self._bodies += 1
        try:
            return await self._take(request)
        finally:
            self._bodies -= 1

    async def _take(self, request: web.Request) -> int:
        if request.content_type != PROTOBUF:
            raise Refused(HTTPStatus.BAD_REQUEST, f"send {PROTOBUF}")
        body = await _body(request)
        try:
            spans = await asyncio.get_running_loop().run_in_executor(self._decoding, otlp.decode, body)
        except otlp.Malformed as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        accepted = self._telemetry.add_spans(spans)
        if self._forwarder is not None:
            self._forwarder.add(body)
        return len(spans) - accepted


RECEIVER = web.AppKey("RECEIVER", Receiver)


@routes.post("/otlp/v1/traces")
async def receive(request: web.Request) -> web.Response:
    try:
        rejected = await request.app[RECEIVER].take(request)
    except Refused as error:
        headers = RETRY_AFTER if error.status == HTTPStatus.TOO_MANY_REQUESTS else None
        answer = web.Response(status=error.status, text=str(error), headers=headers)
        answer.force_close()  # the rest of the body is not read
        return answer
    message = ExportTraceServiceResponse()
    if rejected:
        message.partial_success.rejected_spans = rejected
        message.partial_success.error_message = "no room, or no valid ids"
    return web.Response(body=message.SerializeToString(), content_type=PROTOBUF)


async def _body(request: web.Request) -> bytes:
    """The decompressed body. Raises `Refused`."""
    if (request.content_length or 0) > BODY_BYTES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_BYTES} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(ARRIVAL_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {BODY_BYTES} bytes")
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive in {ARRIVAL_SECONDS} s") from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is truncated or not compressed as it says") from error
    return bytes(body)
