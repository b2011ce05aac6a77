"""The aiohttp application of every service: health routes, metrics, and errors as problem+json.

What must stay true: the text of an unexpected exception never reaches the client.
"""

import time
from http import HTTPStatus

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from .. import metrics, postgres, tracing
from ..errors import ServiceError
from . import admission, connections, database, deadline, health, operations, problems, requests
from .health import TASKS

log = structlog.get_logger()

MAX_BODY_BYTES = 64 * 1024


def create() -> web.Application:
    """Create an application with the routes that every service has. The service's lifespan sets `database.POOL`."""
    app = web.Application(middlewares=[_answer], client_max_size=MAX_BODY_BYTES)
    app[admission.ADMISSION] = admission.Admission()
    health.add_routes(app)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get(problems.PATH, problems.show)
    app.router.add_get(problems.PATH + "{name}", problems.show)
    return app


async def _readyz(request: web.Request) -> web.Response:
    """503 while the process drains or Postgres does not answer."""
    if request.app[TASKS].draining:
        return problems.response("unavailable", "draining")
    await database.reading(request, lambda conn: conn.fetchval("select 1"))
    return web.Response(text="ok")


@web.middleware
async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer within the deadline, measure the time, and make a span if the trace is sampled."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    method = request.method if request.method in hdrs.METH_ALL else "other"  # a client can invent methods
    started = time.monotonic()
    request_id = requests.bind_id(request)
    span = requests.begin_span(request, method, route) if tracing.is_on() else None
    if span is None:
        response = await _respond(request, handler)
    else:
        response = await _traced(span, request, handler)
    response.headers[requests.REQUEST_ID] = request_id
    operations.keep_private(request, response)
    trace_id = span.trace_id if span else None
    metrics.observe_request(route, method, response.status, time.monotonic() - started, trace_id)
    return response


async def _traced(span: tracing.Span, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer within a span. Lines that are logged meanwhile have its ids."""
    error: str | None = "cancelled"
    try:
        with structlog.contextvars.bound_contextvars(**tracing.ids(span.traceparent)):
            response = await _respond(request, handler)
        span.set(tracing.STATUS, response.status)
        error = str(response.status) if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
    finally:
        span.end(error)
    return response


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer within the deadline, or refuse at once."""
    deadline.start(request)
    is_admitted, is_reserved = connections.begin(request), connections.is_reserved(request)
    refusal = None if is_admitted and not is_reserved else admission.refusal(request, is_reserved=is_reserved)
    response = refusal or await _handle(request, handler)
    is_last = request.app[TASKS].draining or is_reserved
    if is_last or not request.content.is_eof() or request.content.exception():
        response.force_close()  # aiohttp closes after an unread body; with the header the client does not reuse it
    return response


async def _handle(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions into problem+json."""
    admitted = request.app[admission.ADMISSION]
    admitted.enter()
    try:
        return await handler(request)
    except ServiceError as error:
        return problems.of_error(error)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        is_question = request.method == hdrs.METH_OPTIONS and isinstance(error, web.HTTPMethodNotAllowed)
        return _methods(error) if is_question else problems.of_http(error)
    except postgres.ERRORS as error:
        if not postgres.is_transient(error):
            log.exception("request failed", path=request.path)
            return problems.response("internal", "internal error")
        log.warning("Postgres did not answer", path=request.path, error=repr(error))
        return problems.response("unavailable", "db error")
    except Exception:
        log.exception("request failed", path=request.path)
        return problems.response("internal", "internal error")
    finally:
        admitted.leave()


def _methods(error: web.HTTPException) -> web.Response:
    """The answer to OPTIONS. It has no CORS headers: a page of another origin may not use the API."""
    return web.Response(status=204, headers={hdrs.ALLOW: f"{error.headers[hdrs.ALLOW]},OPTIONS"})
