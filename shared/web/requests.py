"""HTTP: strict JSON in, problem+json out, and an answer within three seconds.

What must stay true: nothing of an unexpected exception reaches the client, and every request is answered in time,
whatever Postgres does: replies do not wait for a query to be cancelled, because a frozen server ignores that.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import orjson
import structlog
from aiohttp import hdrs, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ValidationError

from shared import errors, metrics
from shared.delivery import events
from shared.postgres import connections as db
from shared.process.run import TASKS, Tasks
from shared.web import fields, problems

log = structlog.get_logger()

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

POOL = web.AppKey("POOL", db.Pool)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ANSWER_SECONDS = 2.8
MAX_BODY_BYTES = 64 * 1024
_ANSWER_BY = web.RequestKey("answer_by", float)

_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
_TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def json(value: object, status: int = 200, **headers: str) -> web.Response:
    """Answer with JSON: of a model, or of what orjson takes."""
    text = value.model_dump_json() if isinstance(value, BaseModel) else orjson.dumps(value)
    return web.Response(
        status=status,
        body=text if isinstance(text, bytes) else text.encode(),
        content_type="application/json",
        headers=headers,
    )


async def body(request: web.Request, model: type[Model], **context: object) -> Model:
    """Read a JSON object, within the deadline. Raises `Invalid` with the reason.

    The model's validators are given `context`. Of `null` is said what an empty object lacks, in the seed's words; where
    that lacks nothing, `null` is still no object.
    """
    try:
        async with asyncio.timeout(seconds_left(request)):
            value = orjson.loads(await request.read())
    except (orjson.JSONDecodeError, TimeoutError, ConnectionError, web.RequestPayloadError):  # the client's fault, all
        raise errors.Invalid(fields.INVALID_JSON) from None
    if not isinstance(value, dict | None):
        raise errors.Invalid(fields.INVALID_JSON)
    try:
        found = model.model_validate(value or {}, context=context)
    except ValidationError as error:
        raise errors.Invalid(fields.sentence(error, in_json=True)) from None
    if value is None:
        raise errors.Invalid(fields.INVALID_JSON)
    return found


def query(request: web.Request, model: type[Model]) -> Model:
    """Read the query; of a name that comes twice the first counts. Raises `Invalid` with the reason."""
    found = {name: request.query[name] for name in request.query}
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise errors.Invalid(fields.sentence(error, in_json=False)) from None


def path_id(request: web.Request, name: str = "id") -> int:
    """Take an id from the path: ASCII digits of a positive 64-bit integer. Raises `Invalid`."""
    raw = request.match_info[name]
    if not _ID.fullmatch(raw) or not 0 < int(raw) <= fields.MAX_ID:
        raise errors.Invalid("invalid id")
    return int(raw)


def idempotency_key(request: web.Request) -> str | None:
    """Take the Idempotency-Key, if there is one. Raises `Invalid`."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise errors.Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters, once")
    return keys[0]


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


async def reading(request: web.Request, work: Callable[[db.Connection], Awaitable[T]]) -> T:
    """Have a use case read on a borrowed connection, within the request's time. Raises `Unavailable`."""

    async def borrowed() -> T:
        async with request.app[POOL].acquire(timeout=db.CONNECT_SECONDS) as conn:
            return await work(conn)

    return await within(borrowed(), seconds_left(request))


async def writing(request: web.Request, keys: Sequence[str], work: Callable[[db.Connection], Awaitable[T]]) -> T:
    """Have a use case write in a transaction that holds the keys' locks, within the request's time.

    What it tells of these keys carries on the request's trace. Raises `OutcomeUnknown` when no answer came in time.
    """
    trace = trace_of(request)

    async def transacted() -> T:
        events.traces.set(dict.fromkeys(keys, trace) if trace else {})
        async with db.transaction(request.app[POOL], keys) as conn:
            return await work(conn)

    try:
        return await within(transacted(), seconds_left(request))
    except (errors.Unavailable, *db.ERRORS) as error:
        if isinstance(error, errors.Unavailable) or db.is_transient(error):
            raise errors.OutcomeUnknown("db error") from error
        raise


def _request_id(request: web.Request) -> str:
    return request.headers.get("X-Request-Id", "")[:64]


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn facts and surprises into problem+json, and time the answer."""
    started = time.monotonic()
    request[_ANSWER_BY] = started + ANSWER_SECONDS
    try:
        response = await handler(request)
    except errors.Fact as fact:
        response = problems.of_fact(fact)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        response = problems.of_http(error)
    except db.ERRORS as error:
        if not db.is_transient(error):
            log.exception("request failed", path=request.path, request_id=_request_id(request))
            response = problems.response("internal", "internal error")
        else:
            log.warning("Postgres did not answer", path=request.path, error=repr(error))
            response = problems.response("unavailable", "db error")
    except Exception:
        log.exception("request failed", path=request.path, request_id=_request_id(request))
        response = problems.response("internal", "internal error")
    if request.app[TASKS].draining or not request.content.is_eof() or request.content.exception():
        response.force_close()  # aiohttp ends it anyway where a body is left over: said so, nobody asks anything there
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
            return problems.response("unavailable", "draining")
        await reading(request, lambda conn: conn.fetchval("select 1"))
        return web.Response(text="ok")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    app.router.add_get(problems.PATH, problems.show)
    app.router.add_get(problems.PATH + "{name}", problems.show)
    return app
