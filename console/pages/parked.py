"""Parked keys by cause, one parked event, and what can be done: a dry run, a replay, a drop."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from console.pages import frame, text, writing
from console.pages.guard import FORM
from console.pages.orders import download
from console.pages.sources import SERVICES
from console.services import Answer
from shared.errors import Conflict, Invalid, NotFound, Unavailable

routes = web.RouteTableDef()

FILTERS = ("key", "type", "error")


@dataclass(slots=True)
class Key:
    """A key: its first parked event, and how many wait behind it."""

    service: str
    first: dict[str, Any]
    ids: list[int] = field(default_factory=list)

    @property
    def waiting(self) -> int:
        return len(self.ids) - 1


@dataclass(slots=True)
class Cause:
    """Keys whose first event failed for the same reason."""

    service: str
    type: str
    error: str
    keys: list[Key] = field(default_factory=list)

    @property
    def first(self) -> str:
        return min(str(key.first["parked_at"]) for key in self.keys)

    @property
    def last(self) -> str:
        return max(str(key.first["parked_at"]) for key in self.keys)


@routes.get("/console/parked")
async def show(request: web.Request) -> web.Response:
    answers = await frame.ask(request, "parked", {"limit": writing.MOST_IDS})
    shown = [one for one in answers if not one.missing]
    return frame.page(
        request,
        "parked.html",
        here="parked",
        answers=answers,
        causes=causes(shown),
        events=sum(one.body["events"] for one in shown),
        unlisted=sum(one.body["events"] - len(one.body["parked"]) for one in shown),
    )


def causes(answers: Sequence[Answer]) -> list[Cause]:
    """The causes, the newest first."""
    found: dict[tuple[str, ...], Cause] = {}
    for one in answers:
        for key in keys(one):
            type_, error = str(key.first["type"]), str(key.first["error"])[:200]
            cause = found.setdefault((one.service, type_, error), Cause(one.service, type_, error))
            cause.keys.append(key)
    return sorted(found.values(), key=lambda cause: cause.last, reverse=True)


def keys(answer: Answer) -> list[Key]:
    """The keys that are parked in a service. An event that blocks nothing stands alone."""
    found: dict[tuple[str, ...], Key] = {}
    for event in answer.body["parked"]:
        alone = "" if event["blocks"] else str(event["id"])
        name = (event["aggregate_type"], event["key"], alone)
        found.setdefault(name, Key(answer.service, event)).ids.append(event["id"])
    return list(found.values())


@routes.get("/console/parked/{service}")
async def choose(request: web.Request) -> web.Response:
    """Some parked events of one service, and the forms to treat them."""
    service = writing.known(request)
    query: dict[str, object] = {name: request.query[name] for name in FILTERS if request.query.get(name)}
    [found] = await frame.ask(request, "parked", query | {"limit": writing.MOST_IDS}, [service])
    chosen = [] if found.missing else found.body["parked"]
    return frame.page(
        request,
        "choose.html",
        here="parked",
        answers=[found],
        service=service,
        chosen=chosen,
        filters=query,
        expected=_expected(service, chosen),
    )


@routes.get("/console/parked/{service}/{id:[0-9]{1,18}}")
async def event(request: web.Request) -> web.Response:
    """One parked event, with its headers and value."""
    service, found = writing.known(request), await _event(request)
    return frame.page(
        request,
        "event.html",
        here="parked",
        answers=[found],
        service=service,
        event=found.body,
        value=found.body["value"],
        expected=_expected(service, [found.body]),
        address=request.app[SERVICES].targets[service],
    )


@routes.get("/console/parked/{service}/{id:[0-9]{1,18}}/value")
async def value(request: web.Request) -> web.Response:
    """The whole value of a parked event, as a file."""
    found = await _event(request)
    return download(str(found.body["value"] or ""), f"{writing.known(request)}-{found.body['id']}.txt")


@routes.post("/console/parked/{service}/dry-run")
async def rehearse(request: web.Request) -> web.Response:
    """Show what a replay would change."""
    service, ids = writing.known(request), writing.ids(request)
    body: dict[str, object] = {"ids": ids, "dry_run": True, "reason": "dry run"}
    found = writing.done(await writing.post(request, "dry run", service, "replay", body, _subject(request)))
    expected = request[FORM].get("expected", "")
    return frame.page(
        request, "rehearsal.html", here="parked", service=service, found=found.body, ids=ids, expected=expected
    )


@routes.post("/console/parked/{service}/replay")
async def replay(request: web.Request) -> web.Response:
    """Handle the chosen events again, and show the progress."""
    return await _repair(request, "replay")


@routes.post("/console/parked/{service}/drop")
async def drop(request: web.Request) -> web.Response:
    """Resolve the chosen events without handling them."""
    form = request[FORM]
    if not form.get("expected") or form.get("confirmed", "").strip() != form["expected"]:
        raise Invalid(f"to drop, type exactly {form.get('expected', '')!r:.200}; nothing was done")
    return await _repair(request, "drop")


async def _repair(request: web.Request, action: str) -> web.Response:
    service, ids = writing.known(request), writing.ids(request)
    body: dict[str, object] = {"ids": ids, "reason": writing.reason(request), "per_second": writing.rate(request)}
    found = writing.done(await writing.post(request, action, service, action, body, _subject(request)))
    if "repair" not in found.body:
        raise Conflict("none of these events is parked any more; nothing was done")
    return frame.back_to(f"/console/repairs/{service}/{int(found.body['repair'])}")


async def _event(request: web.Request) -> Answer:
    [found] = await frame.ask(request, f"parked/{int(request.match_info['id'])}", only=[writing.known(request)])
    if found.missing:
        raise NotFound if found.status == 404 else Unavailable(f"{found.service}: {found.problem}")
    return found


def _expected(service: str, chosen: Sequence[dict[str, Any]]) -> str:
    """The text that confirms a drop: the key as it is shown, or the service if there is more than one key."""
    names = {one["key"] for one in chosen}
    return " ".join(text.plain(names.pop()).split()) if len(names) == 1 else service


def _subject(request: web.Request) -> str:
    ids = writing.ids(request)
    return f"{request[FORM].get('expected', '')}: events {', '.join(map(str, ids[:20]))}{' …' if len(ids) > 20 else ''}"
