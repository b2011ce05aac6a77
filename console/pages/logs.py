"""The log lines of every process: a search, and the newest lines as they come."""

from aiohttp import web

from console.pages import frame
from console.pages.sources import TELEMETRY, soon
from console.telemetry.records import LEVELS, Wanted

routes = web.RouteTableDef()

FIELDS = ("text", "service", "level", "key", "event_id", "trace_id")
LIMIT = 200
_LONGEST = 200


@routes.get("/console/logs")
async def show(request: web.Request) -> web.Response:
    query = request.query
    wanted = {name: query.get(name, "").strip().replace("\x00", "")[:_LONGEST] for name in FIELDS}
    if wanted["level"] not in LEVELS:
        wanted["level"] = ""
    before_id = frame.before_id(request)
    work = request.app[TELEMETRY].lines(
        Wanted(
            text=wanted["text"],
            service=wanted["service"],
            level=wanted["level"],
            key=wanted["key"],
            event_id=wanted["event_id"],
            trace_id=wanted["trace_id"],
            before_id=before_id,
            limit=LIMIT,
        )
    )
    lines, answered = await soon(work, [])
    return frame.page(
        request,
        "logs.html",
        here="logs",
        wanted=wanted,
        lines=lines,
        answered=answered,
        levels=LEVELS,
        live=before_id is None,
        older=lines[-1].id if len(lines) == LIMIT else None,
        dropped=request.app[TELEMETRY].dropped,
    )
