"""Parts of a request, read strictly: JSON body, query, path, headers."""

import asyncio
import re
from random import getrandbits
from typing import TypeVar

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ValidationError

from .. import tracing
from ..errors import Invalid, NotJson
from . import deadline, fields

Model = TypeVar("Model", bound=BaseModel)

_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = "application/json"
REQUEST_ID = "X-Request-Id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)  # the same as in gateway/nginx.conf
_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


async def body(request: web.Request, model: type[Model], **context: object) -> Model:
    """Read a JSON object into `model`, within the request's deadline. Raises `NotJson`, or `Invalid` with the reason.

    Validators of the model get `context`. A `null` body is validated like `{}`, so the client learns which field is
    missing; if none is missing, `null` is still invalid. A body must be declared as JSON, because a browser sends any
    other type also for a page of a foreign origin.
    """
    if request.headers.get("Content-Type") != _JSON and request.content_type != _JSON:
        raise NotJson("the body must be sent with Content-Type: application/json")
    try:
        value = orjson.loads(await _read(request))
    except (orjson.JSONDecodeError, TimeoutError, ConnectionError, web.RequestPayloadError):  # all caused by the client
        raise Invalid(fields.INVALID_JSON) from None
    if not isinstance(value, dict | None):
        raise Invalid(fields.INVALID_JSON if fields.is_lenient(model) else "the body must be a JSON object")
    try:
        found = model.model_validate(value or {}, context=context)
    except ValidationError as error:
        raise Invalid(fields.sentence(error, model, in_json=True)) from None
    if value is None:
        raise Invalid(fields.INVALID_JSON)
    return found


async def _read(request: web.Request) -> bytes:
    """The whole body. A body that is here already needs no timer. Raises `TimeoutError`."""
    if request.content.is_eof():
        return await request.read()
    async with asyncio.timeout(deadline.seconds_left(request)):
        return await request.read()


def query(request: web.Request, model: type[Model]) -> Model:
    """Read the query into `model`. If a name occurs twice, the first value counts. Raises `Invalid` with the reason."""
    found = {name: request.query[name] for name in request.query}
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise Invalid(fields.sentence(error, model, in_json=False)) from None


def path_id(request: web.Request, name: str = "id") -> int:
    """Read an id from the path: a positive 64-bit integer in ASCII digits. Raises `Invalid`."""
    raw = request.match_info[name]
    if not _ID.fullmatch(raw) or not 0 < int(raw) <= fields.MAX_ID:
        raise Invalid("invalid id")
    return int(raw)


def idempotency_key(request: web.Request) -> str | None:
    """The Idempotency-Key, or None. Raises `Invalid`."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters, once")
    return keys[0]


ID = web.RequestKey("id", str)


def bind_id(request: web.Request) -> str:
    """The id of the request: its X-Request-Id if that is sane, or a new one. Every line logged from here has it."""
    sent = request.headers.get(REQUEST_ID, "")
    chosen = sent if _REQUEST_ID.fullmatch(sent) else f"{getrandbits(128):032x}"
    request[ID] = chosen
    structlog.contextvars.bind_contextvars(request_id=chosen)
    return chosen


def address(request: web.Request) -> str:
    """The client's address. The gateway sets X-Real-IP and replaces what the client sent."""
    return request.headers.get("X-Real-IP", request.remote or "")[:64]


def is_https(request: web.Request) -> bool:
    """True if the client uses HTTPS. Then its cookies are sent over HTTPS only."""
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"


SPAN = web.RequestKey("span", tracing.Span)
"""The span of a request whose trace is sampled."""


def begin_span(request: web.Request, method: str, route: str) -> tracing.Span | None:
    """Begin the request's span, as a part of the caller's trace or as the root of one.

    Only requests that change something are roots, because a client that polls would take all traces.
    """
    attributes = {tracing.METHOD: method, tracing.ROUTE: route}
    name, parent = f"{method} {route}", tracing.valid(request.headers.get("traceparent"))
    if parent:
        span = tracing.start(name, "SERVER", parent, attributes)
    else:
        span = None if method in _READS else tracing.root(name, "SERVER", attributes)
    if span:
        request[SPAN] = span
        if sent := tracing.valid(request.headers.get("X-Client-Traceparent")):
            span.set(tracing.CLIENT_TRACEPARENT, sent)
    return span


def traceparent(request: web.Request) -> str | None:
    """The traceparent for what follows from the request: that of its span, or the caller's, or None."""
    span = request.get(SPAN)
    return span.traceparent if span else tracing.valid(request.headers.get("traceparent"))
