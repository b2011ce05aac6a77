"""Charts of the last two hours, each with its figures in a table."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from console.metering.promql import Line as Curve
from console.metering.series import Series
from console.pages import frame, text
from console.pages.sources import CLOCK, SERIES
from shared.errors import Invalid, NotFound

routes = web.RouteTableDef()

MINUTES = (15, 60, 120)
_POINTS = 120
_CURVES = 12


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart: its PromQL, and the unit of its values: `seconds`, `bytes`, or a word."""

    id: str
    title: str
    promql: str
    unit: str


_REQUESTS = "http_server_request_duration_seconds"

CHARTS = {
    chart.id: chart
    for chart in (
        Chart("requests", "Requests a second", f"sum by (service) (rate({_REQUESTS}_count[1m]))", "a second"),
        Chart(
            "duration",
            "Time of 95 % of the answers",
            f"histogram_quantile(0.95, sum by (service, le) (rate({_REQUESTS}_bucket[1m])))",
            "seconds",
        ),
        Chart(
            "published",
            "Events published a second",
            "sum by (service) (rate(outbox_published_total[1m]))",
            "a second",
        ),
        Chart(
            "oldest",
            "Age of the oldest event that is not published",
            "max by (service) (outbox_oldest_unpublished_seconds)",
            "seconds",
        ),
        Chart(
            "lag",
            "Age of the oldest record that is not handled",
            "max by (service) (consumer_lag_seconds)",
            "seconds",
        ),
        Chart("consumed", "Events handled a second", "sum by (service) (rate(consumer_events_total[1m]))", "a second"),
        Chart("parked", "Parked events", "max by (service) (parked_events)", "events"),
        Chart("memory", "Memory of each process", "max by (service) (process_resident_memory_bytes)", "bytes"),
    )
}


@routes.get("/console/charts")
async def show(request: web.Request) -> web.Response:
    minutes, now = _minutes(request), request.app[CLOCK]()
    charts = []
    for chart in CHARTS.values():
        charts.append((chart, figures(chart, curves(request.app[SERIES], chart, now, minutes))))
        await asyncio.sleep(0)
    return frame.page(request, "charts.html", here="charts", charts=charts, minutes=minutes, choices=MINUTES)


@routes.get("/console/charts/{id}.json")
async def data(request: web.Request) -> web.Response:
    """The points of a chart: times, and for each curve its values at these times, or null."""
    chart = CHARTS.get(request.match_info["id"])
    if chart is None:
        raise NotFound
    found = curves(request.app[SERIES], chart, request.app[CLOCK](), _minutes(request))
    times = sorted({at for curve in found for at, _ in curve.points})
    values = [[_finite(dict(curve.points).get(at)) for at in times] for curve in found]
    body = {"unit": chart.unit, "names": [name_of(curve.labels) for curve in found], "times": times, "values": values}
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def curves(series: Series, chart: Chart, now: float, minutes: int) -> Sequence[Curve]:
    """The curves of a chart, a dozen at most. None if the query takes too long."""
    step = minutes * 60 / _POINTS
    end = now - now % step  # a reload shows the same points
    try:
        found = series.range(chart.promql, end - minutes * 60, end, step)
    except Invalid:
        return []
    return sorted(found, key=lambda curve: name_of(curve.labels))[:_CURVES]


def figures(chart: Chart, found: Sequence[Curve]) -> list[dict[str, Any]]:
    """For each curve its last, smallest and largest value, as text."""
    rows = []
    for curve in found:
        values = [value for _, value in curve.points if math.isfinite(value)]
        if values:
            shown = (_value(number, chart.unit) for number in (values[-1], min(values), max(values)))
            rows.append(dict(zip(("last", "least", "most"), shown, strict=True), name=name_of(curve.labels)))
    return rows


def name_of(labels: Mapping[str, str]) -> str:
    kept = [value for name, value in sorted(labels.items()) if name != "__name__"]
    return text.plain(" ".join(kept)) or "all"


def _value(number: float, unit: str) -> str:
    if unit == "seconds":
        return text.span(number)
    return text.size(number) if unit == "bytes" else f"{number:.3g}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _minutes(request: web.Request) -> int:
    found = request.query.get("minutes", "")
    return int(found) if found in map(str, MINUTES) else MINUTES[0]
