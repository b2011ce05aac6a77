"""Failure flags: what each service can be made to do wrong, what is set, and until when."""

import math
from typing import Any

from aiohttp import web

from console.pages import frame, text, writing
from console.pages.guard import FORM
from console.pages.sources import CLOCK
from shared.errors import Invalid

routes = web.RouteTableDef()

_PLACE = "the flags: it may be set"


@routes.get("/console/flags")
async def show(request: web.Request) -> web.Response:
    answers = await frame.ask(request, "flags")
    shown = [one for one in answers if not one.missing]
    now = request.app[CLOCK]()
    active = [(one.service, flag, _left(flag, now)) for one in shown for flag in one.body["flags"]]
    return frame.page(
        request,
        "flags.html",
        here="flags",
        answers=answers,
        active=sorted(active, key=lambda found: str(found[1]["until"])),
        allowing=[one for one in shown if one.body["allowed"]],
        closed=[one.service for one in shown if not one.body["allowed"]],
    )


@routes.post("/console/flags/{service}")
async def set_flag(request: web.Request) -> web.Response:
    """Make a part of a service fail for a while."""
    service, form = writing.known(request), request[FORM]
    name = form.get("name", "")[:100]
    body: dict[str, object] = {
        "name": name,
        "delay_seconds": _number(request, "delay_seconds", 0.0, 60.0),
        "seconds": _number(request, "seconds", 1.0, 3600.0),
        "reason": writing.reason(request),
    }
    body |= {field: given for field in ("type", "key") if (given := form.get(field, "").strip())}
    subject = " ".join([name, *(f"{field}={body[field]}" for field in ("type", "key", "seconds") if field in body)])
    writing.done(await writing.post(request, "set flag", service, "flags", body, subject), _PLACE)
    return frame.back_to("/console/flags")


@routes.post("/console/flags/{service}/{id:[0-9]{1,18}}/end")
async def end_flag(request: web.Request) -> web.Response:
    """End a flag now. No reason is asked for: this only stops a failure."""
    service, id_ = writing.known(request), int(request.match_info["id"])
    subject = f"flag {id_} {request[FORM].get('name', '')}".strip()
    writing.done(await writing.post(request, "end flag", service, f"flags/{id_}/end", {}, subject), _PLACE)
    return frame.back_to("/console/flags")


def _left(flag: dict[str, Any], now: float) -> str:
    """How long a flag lasts from now on."""
    since = text.seconds_since(flag["until"], now)
    return "-" if since is None else text.span(max(0.0, -since))


def _number(request: web.Request, name: str, least: float, most: float) -> float:
    """A number of the form. Raises `Invalid`."""
    try:
        found = float(request[FORM].get(name, "").strip() or least)
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise Invalid(f"{name} must be a number from {least:g} to {most:g}; nothing was done")
    return found
