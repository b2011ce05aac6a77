"""Find what an id belongs to: an order, an event, a trace, a request, a user."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from console.pages import frame
from console.pages.sources import TELEMETRY, soon
from console.services import Answer, part
from console.telemetry.records import Line as LogLine
from console.telemetry.records import TraceSummary, Wanted

routes = web.RouteTableDef()

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_TRACE = re.compile(r"[0-9a-f]{32}", re.ASCII | re.IGNORECASE)
_LONGEST = 200


@routes.get("/console/search")
async def show(request: web.Request) -> web.Response:
    wanted = request.query.get("q", "").strip()[:_LONGEST]
    if not wanted or "\x00" in wanted:
        return frame.page(request, "search.html", q=wanted, links=[], lines=[])
    telemetry = request.app[TELEMETRY]
    answers, (spans, _), (traces, _), (lines, _) = await asyncio.gather(
        frame.ask(request, f"timeline/{part(wanted)}"),
        soon(telemetry.trace(wanted.lower()) if _TRACE.fullmatch(wanted) else _nothing(), []),
        soon(telemetry.traces_of_event(wanted.lower()) if _is_event(wanted) else _nothing(), []),
        soon(telemetry.lines(_lines(wanted)), []),
    )
    found = [*_of_key(wanted, answers), *_of_trace(wanted, len(spans)), *_of_event(traces), *_of_lines(lines)]
    links = list(dict.fromkeys(found))
    return frame.page(request, "search.html", answers=answers, q=wanted, links=links, lines=lines[:50])


async def _nothing() -> list[Any]:
    return []


def _is_event(wanted: str) -> bool:
    return "-" in wanted and _UUID.fullmatch(wanted) is not None


def _lines(wanted: str) -> Wanted:
    """Ids of events, traces and orders are fields of log lines. Other ids are found as text."""
    if _is_event(wanted):
        return Wanted(event_id=wanted.lower(), limit=50)
    if _TRACE.fullmatch(wanted):
        return Wanted(trace_id=wanted.lower(), limit=50)
    if _NUMBER.fullmatch(wanted):
        return Wanted(key=wanted, limit=50)
    return Wanted(text=wanted, limit=50)


def _of_key(wanted: str, answers: Sequence[Answer]) -> list[tuple[str, str]]:
    having = [one.service for one in answers if not one.missing and (one.body["row"] or one.body["events"])]
    if having:
        return [(f"Timeline of {wanted}, known to {', '.join(having)}", f"/console/orders/{part(wanted)}")]
    if _NUMBER.fullmatch(wanted) and any(one.problem for one in answers):
        return [(f"Timeline of {wanted}; not all services answered", f"/console/orders/{part(wanted)}")]
    return []


def _of_trace(wanted: str, spans: int) -> list[tuple[str, str]]:
    return [(f"Trace {wanted} with {spans} spans", f"/console/traces/{wanted.lower()}")] if spans else []


def _of_event(traces: Sequence[TraceSummary]) -> list[tuple[str, str]]:
    """The keys and traces that have a span of the event."""
    keys = [
        (f"Timeline of {one.key}, which has this event", f"/console/orders/{part(one.key)}")
        for one in traces
        if one.key
    ]
    return keys + [
        (f"Trace {one.trace_id}, which has this event", f"/console/traces/{part(one.trace_id)}") for one in traces
    ]


def _of_lines(lines: Sequence[LogLine]) -> list[tuple[str, str]]:
    """The keys and traces of the log lines that mention the text."""
    found = [
        (f"Timeline of {line.key}, from a log line", f"/console/orders/{part(line.key)}") for line in lines if line.key
    ]
    found += [
        (f"Trace {line.trace_id}, from a log line", f"/console/traces/{part(line.trace_id)}")
        for line in lines
        if line.trace_id
    ]
    return found[:20]
