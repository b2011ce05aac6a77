"""HTTP: strict JSON in, problem+json out, one table from facts to statuses, and an answer within three seconds.

What must stay true: nothing of an unexpected exception reaches the client, and every request is answered in time,
whatever Postgres does: replies do not wait for a query to be cancelled, because a frozen server ignores that.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from shared import db, errors, metrics
from shared.runtime import TASKS, Tasks

log = structlog.get_logger()

T = TypeVar("T")

POOL = web.AppKey("POOL", db.Pool)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ANSWER_SECONDS = 2.8
MAX_BODY_BYTES = 64 * 1024
_ANSWER_BY = web.RequestKey("answer_by", float)

_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

# The one place that turns facts into HTTP: the status, and the problem type that clients can rely on.
_STATUSES: dict[type[BaseException], tuple[int, str]] = {
    errors.Invalid: (400, "invalid"),
    errors.Forbidden: (403, "forbidden"),
    errors.NotFound: (404, "not-found"),
    errors.Conflict: (409, "conflict"),
    errors.KeyReused: (422, "idempotency-key-reused"),
    errors.OutcomeUnknown: (503, "outcome-unknown"),
    errors.Refused: (503, "refused"),
    errors.Unavailable: (503, "unavailable"),
}


def problem(status: int, type_: str, detail: str) -> web.Response:
    """Build an RFC 9457 answer; those that may be repeated say when."""
    body = {"type": f"/problems/{type_}", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if type_ == "outcome-unknown":
        body["advice"] = "repeat with the same Idempotency-Key"
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/problem+json", headers=headers
    )


def json(value: object, status: int = 200, **headers: str) -> web.Response:
    """Answer with JSON."""
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json", headers=headers)


async def body(request: web.Request) -> dict[str, Any]:
    """Read a JSON object; `null` counts as an empty one. Raises `Invalid` for everything else, within the deadline."""
    try:
        async with asyncio.timeout(seconds_left(request)):
            value = orjson.loads(await request.read())
    except (orjson.JSONDecodeError, TimeoutError, ConnectionError, web.RequestPayloadError):  # the client's fault, all
        raise errors.Invalid("invalid json") from None
    if not isinstance(value, dict | None):
        raise errors.Invalid("invalid json")
    return value or {}


def text(value: object) -> str:
    """Take a JSON string, or nothing, as text that Postgres can keep. Raises `Invalid`."""
    if value is None:
        return ""
    if not isinstance(value, str) or "\x00" in value:
        raise errors.Invalid("invalid json")
    return value


def integer(value: object) -> int:
    """Take a JSON integer, or nothing, as an int: no 1.0, no true. Raises `Invalid`."""
    if value is None:
        return 0
    if type(value) is not int:
        raise errors.Invalid("invalid json")
    return value


def path_id(request: web.Request) -> int:
    """Take the path's id: ASCII digits of a positive 64-bit integer. Raises `Invalid`."""
    raw = request.match_info["id"]
    if not _ID.fullmatch(raw) or not 0 < int(raw) < 2**63:
        raise errors.Invalid("invalid id")
    return int(raw)


def query_integer(request: web.Request, name: str, default: int, most: int) -> int:
    """Take a positive integer from the query. Raises `Invalid`."""
    raw = request.query.get(name, str(default))
    if not _ID.fullmatch(raw) or not 0 < int(raw) <= most:
        raise errors.Invalid(f"{name} must be an integer from 1 to {most}")
    return int(raw)


def trace_of(request: web.Request) -> str | None:
    """Give the request's W3C traceparent, if it has a valid one."""
    trace = request.headers.get("traceparent", "")
    return trace if _TRACE.fullmatch(trace) else None


def seconds_left(request: web.Request) -> float:
    """Say how long the answer may still take: reading the body and working on it share one deadline."""
    return max(0.0, request[_ANSWER_BY] - time.monotonic())


async def within(work: Awaitable[T], seconds: float) -> T:
    """Await work, but not longer than so, and without waiting for its query to notice. Raises `Unavailable`."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # looked at, whenever it ends
    if task.done():
        return task.result()
    raise errors.Unavailable("db error")


def bounded(handler: Handler) -> Handler:
    """Make a handler answer 503 when it would need too long."""

    async def wrapped(request: web.Request) -> web.StreamResponse:
        return await within(handler(request), seconds_left(request))

    return wrapped


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn facts and surprises into problem+json, and time the answer."""
    started = time.monotonic()
    request[_ANSWER_BY] = started + ANSWER_SECONDS
    try:
        response = await handler(request)
    except errors.Fact as fact:
        status, type_ = next(_STATUSES[kind] for kind in type(fact).__mro__ if kind in _STATUSES)
        response = problem(status, type_, fact.detail)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = problem(error.status, error.reason.lower().replace(" ", "-"), error.reason)
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
    except db.ERRORS as error:
        if not db.is_transient(error):
            log.exception("request failed", path=request.path)
            response = problem(500, "internal", "internal error")
        else:
            log.warning("Postgres did not answer", path=request.path, error=repr(error))
            response = problem(503, "unavailable", "db error")
    except Exception:
        log.exception("request failed", path=request.path)
        response = problem(500, "internal", "internal error")
    if request.app[TASKS].draining:
        response.force_close()
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    method = request.method if request.method in hdrs.METH_ALL else "other"  # anybody may make up verbs
    metrics.REQUESTS.labels(route, method, response.status).observe(time.monotonic() - started)
    return response


def application() -> web.Application:
    """Make an application with what every service serves; the service's lifespan sets its `POOL`."""
    app = web.Application(middlewares=[_answer], client_max_size=MAX_BODY_BYTES)
    app[TASKS] = Tasks()

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def livez(request: web.Request) -> web.Response:
        hanging = request.app[TASKS].hanging()
        return web.Response(status=503 if hanging else 200, text=f"hanging: {hanging}" if hanging else "ok")

    async def readyz(request: web.Request) -> web.Response:
        draining = request.app[TASKS].draining
        if draining:
            return problem(503, "unavailable", "draining")
        await request.app[POOL].fetchval("select 1")
        return web.Response(text="ok")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", bounded(readyz))
    app.router.add_get("/metrics", exposition)
    return app
