"""The actions in this console, the repairs of each service, and its audit trail."""

import asyncio

from aiohttp import web

from console.pages import frame
from console.pages.sources import JOURNAL

routes = web.RouteTableDef()

LIMIT = 200
ACTS = 100
"""So many of each service: the newest of all are among them."""


@routes.get("/console/actions")
async def show(request: web.Request) -> web.Response:
    last = request.app[JOURNAL].last(LIMIT, frame.before_id(request))
    answers, trails, entries = await asyncio.gather(
        frame.ask(request, "repairs"), frame.ask(request, "audit", {"limit": ACTS}), last
    )
    acts = [(one.service, act) for one in trails if not one.missing for act in one.body["acts"]]
    acts.sort(key=lambda pair: str(pair[1]["at"]), reverse=True)
    repairs = [(one.service, repair) for one in answers if not one.missing for repair in one.body["repairs"]]
    repairs.sort(key=lambda pair: str(pair[1]["requested_at"]), reverse=True)
    older = entries[-1].id if len(entries) == LIMIT else None
    return frame.page(
        request,
        "actions.html",
        here="actions",
        answers=[*answers, *trails],
        entries=entries,
        repairs=repairs,
        acts=acts[:LIMIT],
        older=older,
    )
