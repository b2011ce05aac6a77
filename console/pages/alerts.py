"""The alerts that fire, all rules, and the runbook of each."""

import re
from pathlib import Path

from aiohttp import web

from console.pages import frame, markdown, text
from console.pages.sources import ALERTS
from shared.errors import NotFound

routes = web.RouteTableDef()

RUNBOOKS = Path(__file__).parents[2] / "docs" / "operations.md"
_PLACE = re.compile(r"\{\{.*?\}\}")
_HEADING = re.compile(r"^(#{2,4}) +(.+?) *$", re.MULTILINE)


@routes.get("/console/alerts")
async def show(request: web.Request) -> web.Response:
    alerts = request.app[ALERTS]
    active = sorted(alerts.active(), key=lambda one: (one.state != "firing", one.severity != "page", one.since))
    rules = [(rule, _PLACE.sub("…", rule.summary)) for rule in alerts.all()]
    return frame.page(request, "alerts.html", here="alerts", active=active, rules=rules)


@routes.get("/console/runbooks/{anchor}")
async def runbook(request: web.Request) -> web.Response:
    anchor = request.match_info["anchor"]
    if not RUNBOOKS.is_file():
        raise NotFound(f"docs/operations.md#{anchor} is not part of this installation")
    title, body = section(RUNBOOKS.read_text(encoding="utf-8"), anchor)
    return frame.page(
        request, "runbook.html", here="alerts", title=title, body=markdown.rendered(text.plain(body)), anchor=anchor
    )


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(document: str, anchor: str) -> tuple[str, str]:
    """The heading with this anchor, and the text up to the next heading of its level. Raises `NotFound`."""
    headings = list(_HEADING.finditer(document))
    for n, one in enumerate(headings):
        if anchor_of(one[2]) == anchor:
            after = (h.start() for h in headings[n + 1 :] if len(h[1]) <= len(one[1]))
            return one[2], document[one.end() : next(after, len(document))].strip()
    raise NotFound(f"docs/operations.md has no heading #{anchor}")
