"""The routes of all pages."""

from console.pages import (
    actions,
    alerts,
    books,
    charts,
    drills,
    flags,
    guarantees,
    health,
    lanes,
    login,
    logs,
    orders,
    parked,
    repairs,
    search,
    traces,
)
from console.pages.frame import FOLDER
from console.pages.guard import STATIC
from shared.web import static

ALL = [
    *(login.routes, health.routes, orders.routes, search.routes, parked.routes, repairs.routes, lanes.routes),
    *(alerts.routes, traces.routes, logs.routes, charts.routes, actions.routes),
    *(books.routes, flags.routes, drills.routes, guarantees.routes, static.routes(STATIC, FOLDER / "static")),
]
