"""Who did what: the actions in this console, and the repairs of each service, which its commands request too."""

import asyncio

from aiohttp import web

from console.pages import frame
from console.pages.sources import JOURNAL

routes = web.RouteTableDef()

LIMIT = 200


@routes.get("/console/actions")
async def show(request: web.Request) -> web.Response:
    before = request.query.get("before", "")
    before_id = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else 2**62
    answers, entries = await asyncio.gather(frame.ask(request, "repairs"), request.app[JOURNAL].last(LIMIT, before_id))
    repairs = [(one.service, repair) for one in answers if not one.missing for repair in one.body["repairs"]]
    repairs.sort(key=lambda pair: str(pair[1]["requested_at"]), reverse=True)
    older = entries[-1].id if len(entries) == LIMIT else None
    return frame.page(
        request, "actions.html", here="actions", answers=answers, entries=entries, repairs=repairs, older=older
    )
