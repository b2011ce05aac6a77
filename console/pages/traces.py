"""Traces: the list, and one trace as a waterfall with its log lines."""

import asyncio
import re

import orjson
from aiohttp import web

from console.pages import frame, waterfall
from console.pages.sources import TELEMETRY, soon
from console.telemetry.otlp import otlp_json
from console.telemetry.records import Wanted
from shared import tracing
from shared.errors import NotFound

routes = web.RouteTableDef()

LIMIT = 100
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@routes.get("/console/traces")
async def listed(request: web.Request) -> web.Response:
    query = request.query
    service, key, errors = query.get("service", ""), query.get("key", ""), query.get("errors") == "1"
    min_ms, before = _number(query.get("min_ms", "")), _number(query.get("before", ""))
    work = request.app[TELEMETRY].traces(
        service=service,
        key=key,
        min_ms=min_ms,
        errors_only=errors,
        before_ns=int(before) if before else None,
        limit=LIMIT,
    )
    found, answered = await soon(work, [])
    return frame.page(
        request,
        "traces.html",
        here="traces",
        traces=found,
        answered=answered,
        wanted={"service": service, "key": key, "min_ms": query.get("min_ms", ""), "errors": errors},
        before=found[-1].start_ns if len(found) == LIMIT else None,
    )


@routes.get(r"/console/traces/{id}.json")
async def export(request: web.Request) -> web.Response:
    """A trace as OTLP JSON."""
    trace_id = _trace_id(request)
    spans, _ = await soon(request.app[TELEMETRY].trace(trace_id), [])
    if not spans:
        raise NotFound
    return web.Response(
        body=orjson.dumps(otlp_json(list(spans))),
        content_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{trace_id}.json"'},
    )


@routes.get("/console/traces/{id}")
async def show(request: web.Request) -> web.Response:
    trace_id, telemetry = _trace_id(request), request.app[TELEMETRY]
    (spans, answered), (lines, _) = await asyncio.gather(
        soon(telemetry.trace(trace_id), []), soon(telemetry.lines(Wanted(trace_id=trace_id, limit=500)), [])
    )
    return frame.page(
        request,
        "trace.html",
        here="traces",
        trace_id=trace_id,
        answered=answered,
        rows=waterfall.rows(spans, lines),
        spans=spans,
        lines=lines,
        keys=sorted({str(span.attributes[tracing.KEY]) for span in spans if tracing.KEY in span.attributes}),
    )


def _trace_id(request: web.Request) -> str:
    found = request.match_info["id"].lower()
    if not _ID.fullmatch(found):
        raise NotFound("a trace id has 32 hexadecimal digits")
    return found


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,3})?", text, re.ASCII) else 0.0
