"""Is the shop healthy? A line for each promise, and the alerts that fire."""

import asyncio

from aiohttp import web

from console.pages import frame, promises
from console.pages.sources import ALERTS, BOOKS, CLOCK, SERIES, TELEMETRY

routes = web.RouteTableDef()


@routes.get("/console")
async def root(_: web.Request) -> web.Response:
    return web.Response(status=308, headers={"Location": "/console/"})


@routes.get("/console/")
async def show(request: web.Request) -> web.Response:
    health, lanes = await asyncio.gather(frame.ask(request, "health"), frame.ask(request, "lanes"))
    app, now = request.app, request.app[CLOCK]()
    lines = promises.all_of(health, lanes, promises.Metrics(app[SERIES], now), app[ALERTS], app[BOOKS])
    return frame.page(
        request,
        "health.html",
        here="health",
        answers=health,
        promises=lines,
        services=health,
        firing=app[ALERTS].firing(),
        broken=sum(one.state == "broken" for one in lines),
        unknown=sum(one.state == "unknown" for one in lines),
        dropped=app[TELEMETRY].dropped,
    )
