"""The actions in this console, and the repairs of each service, which its commands request too."""

import asyncio

from aiohttp import web

from console.pages import frame
from console.pages.sources import JOURNAL

routes = web.RouteTableDef()

LIMIT = 200


@routes.get("/console/actions")
async def show(request: web.Request) -> web.Response:
    last = request.app[JOURNAL].last(LIMIT, frame.before_id(request))
    answers, entries = await asyncio.gather(frame.ask(request, "repairs"), last)
    repairs = [(one.service, repair) for one in answers if not one.missing for repair in one.body["repairs"]]
    repairs.sort(key=lambda pair: str(pair[1]["requested_at"]), reverse=True)
    older = entries[-1].id if len(entries) == LIMIT else None
    return frame.page(
        request, "actions.html", here="actions", answers=answers, entries=entries, repairs=repairs, older=older
    )
