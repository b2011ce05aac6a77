"""Kill or freeze a program of the embedded stack, and see the effect on orders."""

import asyncio
from typing import get_args

from aiohttp import web

from console.drills.keeper import OWN, Drills
from console.drills.records import NAMES, Kind, promise
from console.pages import frame, guarantees, writing
from console.pages.guard import FORM
from console.pages.sources import DRILLS
from console.services import Answer
from shared.errors import Conflict, Invalid, NotFound, ServiceError
from shared.process.supervisord import Program

routes = web.RouteTableDef()

KINDS: tuple[Kind, ...] = get_args(Kind)


@routes.get("/console/drills")
async def show(request: web.Request) -> web.Response:
    drills = request.app[DRILLS]
    if drills is None:
        return frame.page(request, "no-drills.html", here="drills")
    answers, (programs, problem), results = await asyncio.gather(
        frame.ask(request, "lanes"), _programs(drills), drills.last()
    )
    return frame.page(
        request,
        "drills.html",
        here="drills",
        answers=answers,
        programs=programs,
        problem=problem,
        results=results,
        current=drills.current,
        lanes=_lanes(answers),
        kinds=NAMES,
        frozen=drills.pace.frozen,
        own=OWN,
    )


@routes.post("/console/drills")
async def start(request: web.Request) -> web.Response:
    """Start a drill, store its author, and show its measurements."""
    drills = request.app[DRILLS]
    if drills is None:
        raise Conflict("drills are possible only in the embedded stack; nothing was done")
    kind, program = _wanted(request)
    reason = writing.reason(request)
    what, name = f"drill: {NAMES[kind]}", program.partition(":")[2]
    async with writing.recorded(request, what, name, program, reason) as outcome:
        try:
            id_ = await drills.start(program, kind, frame.session(request).username, reason)
        except ServiceError as error:
            outcome.text = f"refused: {error.detail}"
            raise
        outcome.text = f"accepted as drill {id_}"
    return frame.back_to(f"/console/drills/{id_}")


@routes.get("/console/drills/{id:[0-9]{1,18}}")
async def one(request: web.Request) -> web.Response:
    """One drill, while it runs and afterwards."""
    drills = request.app[DRILLS]
    found = None if drills is None else await drills.find(int(request.match_info["id"]))
    if found is None:
        raise NotFound("there is no such drill; the last hundred are kept")
    fault = promise(found.name, found.kind)
    return frame.page(
        request,
        "drill.html",
        here="drills",
        drill=found,
        name=NAMES[found.kind],
        fault=fault,
        guarantee=guarantees.find(fault),
    )


async def _programs(drills: Drills) -> tuple[list[Program], str]:
    """The programs, or why they are not known."""
    try:
        return await drills.supervisord.programs(), ""
    except ServiceError as error:
        return [], error.detail


def _lanes(answers: list[Answer]) -> dict[str, str]:
    """The lanes that each service's own process publishes."""
    held = {
        one.service: [str(lane["lane"]) for lane in one.body["lanes"] if lane["held"]] for one in answers if one.body
    }
    return {service: ", ".join(lanes) for service, lanes in held.items() if lanes}


def _wanted(request: web.Request) -> tuple[Kind, str]:
    """The kind and the program of the button: `kill group:program`. Raises `Invalid`."""
    what, _, program = request[FORM].get("what", "").partition(" ")
    kind = next((one for one in KINDS if one == what), None)
    if kind is None or not 0 < len(program) <= 100:
        raise Invalid("choose a program and what is done to it; nothing was done")
    return kind, program
