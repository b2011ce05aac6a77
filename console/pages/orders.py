"""Everything that all services know of one order, or of another key."""

import asyncio

from aiohttp import web

from console.pages import frame, text, timeline
from console.pages.sources import SERVICES, TELEMETRY, soon
from console.services import part
from console.telemetry.records import Span, Wanted
from console.telemetry.store import Telemetry
from shared.errors import NotFound

routes = web.RouteTableDef()

SHOWN_VALUE = 2_000
ORDERS = "orders"
_TRACES = 5


@routes.get("/console/orders/{key}")
async def show(request: web.Request) -> web.Response:
    key, telemetry = request.match_info["key"], request.app[TELEMETRY]
    answers, (spans, has_spans), (lines, _) = await asyncio.gather(
        frame.ask(request, f"timeline/{part(key)}"),
        soon(_spans(telemetry, key), []),
        soon(telemetry.lines(Wanted(key=key, limit=50)), []),
    )
    steps, others = timeline.steps(answers, spans)
    order = next((one.body["row"] for one in answers if one.service == ORDERS and not one.missing), None)
    return frame.page(
        request,
        "order.html",
        here="",
        answers=answers,
        key=key,
        name="Order" if order else "Timeline of",
        order=order,
        services=answers,
        steps=steps,
        others=others,
        traces=sorted({span.trace_id for span in spans}),
        has_spans=has_spans,
        lines=lines,
        targets=request.app[SERVICES].targets,
        shown_value=SHOWN_VALUE,
    )


@routes.get("/console/orders/{key}/events/{service}/{event_id}")
async def value(request: web.Request) -> web.Response:
    """The whole value of an event, as a file."""
    key, service, event_id = (request.match_info[name] for name in ("key", "service", "event_id"))
    for one in await frame.ask(request, f"timeline/{part(key)}", only=[_known(request, service)]):
        for event in [] if one.missing else one.body["events"]:
            if event.get("event_id") == event_id and "value" in event:
                return download(text.pretty(event["value"]), f"{event_id}.json")
    raise NotFound


def download(content: str, name: str) -> web.Response:
    """A file. No browser shows it as a page."""
    kept = "".join(char for char in name if char.isascii() and (char.isalnum() or char in "._-"))
    return web.Response(
        body=content.encode(errors="replace"),
        content_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{kept}"'},
    )


def _known(request: web.Request, service: str) -> str:
    if service not in request.app[SERVICES].targets:
        raise NotFound
    return service


async def _spans(telemetry: Telemetry, key: str) -> list[Span]:
    found = await telemetry.traces(key=key, limit=_TRACES)
    return [span for trace in found for span in await telemetry.trace(trace.trace_id)]
