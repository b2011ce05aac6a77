"""The table of docs/guarantees.md: which fault, what holds, and which test shows it."""

import re
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from console.pages import frame
from console.pages.alerts import anchor_of
from shared.errors import NotFound

routes = web.RouteTableDef()

FILE = Path(__file__).parents[2] / "docs" / "guarantees.md"
_HEAD = "| fault | what holds | test |"


@dataclass(frozen=True, slots=True)
class Guarantee:
    """One line of the table. `anchor` is its id on the page."""

    fault: str
    holds: str
    test: str

    @property
    def anchor(self) -> str:
        return re.sub("-+", "-", anchor_of(self.fault)).strip("-")


@routes.get("/console/guarantees")
async def show(request: web.Request) -> web.Response:
    found = read()
    if not found:
        raise NotFound("docs/guarantees.md is not part of this installation")
    return frame.page(request, "guarantees.html", here="drills", guarantees=found)


def read() -> list[Guarantee]:
    """The lines of the table. None if there is no such file."""
    if not FILE.is_file():
        return []
    lines = FILE.read_text(encoding="utf-8").partition(_HEAD)[2].strip().splitlines()
    rows = []
    for line in lines[1:]:  # the first line is the rule below the head
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|") or len(cells) != 3:
            break
        rows.append(Guarantee(*cells))
    return rows


def find(fault: str | None) -> Guarantee | None:
    """The line about a fault."""
    return next((one for one in read() if one.fault == fault), None)
