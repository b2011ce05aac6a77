"""The frame of every page: templates, the session, and which services did not answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from console.pages import text
from console.pages.sources import CLOCK, SERVICES, SESSIONS
from console.services import Answer, part
from console.sessions import Session

ROOT = "/console"
FOLDER = Path(__file__).parent.parent

SESSION = web.RequestKey("SESSION", Session)

NAV = (
    ("health", "/console/", "Health"),
    ("parked", "/console/parked", "Parked"),
    ("lanes", "/console/lanes", "Lanes"),
    ("alerts", "/console/alerts", "Alerts"),
    ("traces", "/console/traces", "Traces"),
    ("logs", "/console/logs", "Logs"),
    ("charts", "/console/charts", "Charts"),
    ("books", "/console/books", "Books"),
    ("flags", "/console/flags", "Flags"),
    ("drills", "/console/drills", "Drills"),
    ("actions", "/console/actions", "Actions"),
)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=text.shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "part": part,
        "query": lambda value: quote(str(value), safe="", errors="replace"),
        "cut": text.cut,
        "pretty": text.pretty,
        "when": text.when,
        "of_ns": text.of_ns,
        "span": text.span,
        "size": text.size,
        "counted": text.counted,
    }
    made.globals |= {"nav": NAV, "longest": text.LONGEST}
    return made


TEMPLATES = _environment()


def page(
    request: web.Request, template: str, *, answers: Sequence[Answer] = (), status: int = 200, **values: Any
) -> web.Response:
    """Render a page. `answers` are those of the services, so that the page shows which did not come."""
    now = request.app[CLOCK]()
    frame = {
        "now": now,
        "ago": lambda moment: text.span(text.seconds_since(moment, now)),
        "session": request.get(SESSION),
        "late": [one for one in answers if one.problem],
        "here": "",
        "url": request.path_qs,
    }
    body = TEMPLATES.get_template(template).render(frame | values)
    return web.Response(body=body.encode(errors="replace"), status=status, content_type="text/html", charset="utf-8")


def session(request: web.Request) -> Session:
    return request[SESSION]


async def ask(
    request: web.Request, path: str, query: dict[str, object] | None = None, only: Sequence[str] = ()
) -> list[Answer]:
    """GET /admin/<path> of the services, with the token of the session's administrator."""
    token = await request.app[SESSIONS].access(session(request))
    return await request.app[SERVICES].ask(token, path, query, only)


def before_id(request: web.Request) -> int | None:
    """The id in `?before=`, which continues a list. None if there is no valid one."""
    sent = request.query.get("before", "")
    return int(sent) if sent.isascii() and sent.isdecimal() and len(sent) < 19 else None


def back_to(path: str) -> web.Response:
    """After a POST: show another page. A reload does not repeat the POST."""
    return web.Response(status=303, headers={"Location": path})
