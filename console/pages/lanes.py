"""The lanes of each outbox: who publishes them, what waits, what Kafka refused, and what holds all back."""

from aiohttp import web

from console.pages import frame

routes = web.RouteTableDef()


@routes.get("/console/lanes")
async def show(request: web.Request) -> web.Response:
    answers = await frame.ask(request, "lanes")
    shown = [one for one in answers if not one.missing]
    holding = [(one, one.body["held_back_by"]) for one in shown if one.body["held_back_by"]]
    return frame.page(
        request,
        "lanes.html",
        here="lanes",
        answers=answers,
        services=shown,
        refused=[(one.service, row) for one in shown for row in one.body["refused"]],
        holding=[(one, found) for one, found in holding if found.get("pid")],
    )
