"""Writes: each is stored with its author, its reason and its outcome."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from console.journal import Action
from console.pages import frame
from console.pages.guard import FORM
from console.pages.sources import JOURNAL, SERVICES, SESSIONS
from console.services import Answer
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.web import requests

MOST_IDS = 1000


@dataclass
class Outcome:
    """The outcome of an action, which is stored at the end."""

    text: str = "the console failed"


@asynccontextmanager
async def recorded(request: web.Request, what: str, service: str, subject: str, why: str) -> AsyncIterator[Outcome]:
    """Store the action before the block, and the outcome that the block has set after it."""
    session, journal = frame.session(request), request.app[JOURNAL]
    number = await journal.begin(Action(session.username, requests.origin(request), what, service, subject, why))
    outcome = Outcome()
    try:
        yield outcome
    finally:
        await journal.end(number, outcome.text)


async def post(
    request: web.Request, what: str, service: str, path: str, body: dict[str, object], subject: str
) -> Answer:
    """POST /admin/<path> of a service, and store it."""
    why = request[FORM].get("reason", "").strip()
    async with recorded(request, what, service, subject, why) as outcome:
        token = await request.app[SESSIONS].access(frame.session(request))
        found = await request.app[SERVICES].post(token, service, path, body)
        outcome.text = found.problem or summary(found)
    return found


def summary(found: Answer) -> str:
    body = found.body
    if "repair" in body:
        return f"accepted as repair {body['repair']}"
    if "chosen" in body:
        return f"{body['chosen']} events chosen; nothing was changed"
    return f"done, as {body['id']}" if "id" in body else "done"


def done(found: Answer, look_at: str = "the repairs: it may have been accepted") -> Answer:
    """The answer to a write. Raises `Conflict` if the service refused, `Unavailable` if the outcome is unknown."""
    if not found.problem:
        return found
    if 400 <= found.status < 500:
        raise Conflict(f"{found.service} {found.problem}; nothing was done")
    raise Unavailable(f"{found.service}: {found.problem}. Look at {look_at}")


def known(request: web.Request) -> str:
    """The service of the path. Raises `NotFound`."""
    service = request.match_info["service"]
    if service not in request.app[SERVICES].targets:
        raise NotFound("there is no such service")
    return service


def ids(request: web.Request) -> list[int]:
    """The chosen events. Raises `Invalid`."""
    found = request[FORM].get("ids", "").split(",")
    if not 0 < len(found) <= MOST_IDS or not all(one.isdecimal() and len(one) < 19 for one in found):
        raise Invalid("choose at least one event, and at most 1000")
    return [int(one) for one in found]


def reason(request: web.Request) -> str:
    """The reason of a write. Raises `Invalid` if it is blank."""
    given = " ".join(request[FORM].get("reason", "").split())
    if not 0 < len(given) <= 500:
        raise Invalid("a reason is required, of at most 500 characters; nothing was done")
    return given


def rate(request: web.Request) -> int:
    """How many events a second. Raises `Invalid`."""
    given = request[FORM].get("per_second", "50")
    if not (given.isdecimal() and len(given) < 5 and 1 <= int(given) <= 1000):
        raise Invalid("events a second must be a number from 1 to 1000; nothing was done")
    return int(given)
