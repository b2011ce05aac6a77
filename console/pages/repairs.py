"""The progress of one replay or drop."""

from aiohttp import web

from console.pages import frame, writing
from console.pages.sources import SERVICES
from shared.errors import NotFound

routes = web.RouteTableDef()


@routes.get("/console/repairs/{service}/{id:[0-9]{1,18}}")
async def show(request: web.Request) -> web.Response:
    service, id_ = writing.known(request), int(request.match_info["id"])
    [found] = await frame.ask(request, f"repairs/{id_}", only=[service])
    if found.status == 404:
        raise NotFound
    counts = {} if found.missing else found.body["counts"]
    whole = sum(counts.values())
    return frame.page(
        request,
        "repair.html",
        here="parked",
        answers=[found],
        service=service,
        id=id_,
        repair=found.body,
        counts=counts,
        whole=whole,
        done=whole - counts.get("waiting", 0),
        running=found.missing or found.body["ended_at"] is None,
        address=request.app[SERVICES].targets[service],
    )
