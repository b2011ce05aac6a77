"""The promises of the shop, each kept, broken or unknown, with an age."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from console.books import Books
from console.metering.alerts import Alerts
from console.metering.series import Series
from console.pages import text
from console.services import Answer
from shared.errors import Invalid

State = Literal["kept", "broken", "unknown"]
Trouble = tuple[Any, str]
"""Since when, as a time of the admin API or in seconds since 1970, or an empty text if that is not known; and what."""

LATE_SECONDS = 5.0
STALLED_SECONDS = 30.0
ORDER_SECONDS = 90.0
"""An order is final after 60 s at the latest, if nothing is broken."""


@dataclass(frozen=True, slots=True)
class Promise:
    """`age` says how old the oldest problem is, or how fresh the good news is. `how` is the source, for people."""

    id: str
    name: str
    state: State
    age: str
    detail: str
    link: str
    how: str


class Metrics:
    """Reads the largest value of a metric. None if there is none, or if the console does not collect it."""

    def __init__(self, series: Series, now: float) -> None:
        self._series, self.now = series, now

    def each(self, promql: str) -> list[tuple[float, str]]:
        """Each value with its service, without those that are not a number."""
        try:
            found = self._series.query(promql, self.now)
        except Invalid:  # too expensive for now
            return []
        return [(one.value, one.labels.get("service", "")) for one in found if not math.isnan(one.value)]

    def largest(self, promql: str) -> tuple[float, str] | None:
        return max(self.each(promql), default=None)


def all_of(
    health: Sequence[Answer], lanes: Sequence[Answer], metrics: Metrics, alerts: Alerts, books: Books | None
) -> list[Promise]:
    """One promise a line, the broken ones first. Without `books`, nothing is promised about them."""
    now = metrics.now
    found = [
        *([_books(books, now)] if books is not None else []),
        *_of_metrics(metrics),
        *_of_health(health, now),
        *_of_lanes(lanes, now),
        _targets(health, metrics),
        _alerts(alerts, now),
    ]
    return sorted(found, key=lambda one: ("broken", "unknown", "kept").index(one.state))


def _of_metrics(metrics: Metrics) -> Iterator[Promise]:
    rules: tuple[tuple[str, str, str, float, str, str], ...] = (
        (
            "orders",
            "Orders end",
            "max by (service) (orders_oldest_open_seconds)",
            ORDER_SECONDS,
            "open order",
            "/console/charts",
        ),
        (
            "relay",
            "Relays take turns",
            "max by (service) (time() - (relay_last_success_timestamp_seconds > 0))",
            STALLED_SECONDS,
            "turn of a relay",
            "/console/lanes",
        ),
        (
            "consumers",
            "Consumers take turns",
            "max by (service) (time() - (consumer_last_success_timestamp_seconds > 0))",
            STALLED_SECONDS,
            "turn of a consumer",
            "/console/charts",
        ),
        (
            "lag",
            "Events are handled on time",
            "max by (service) (consumer_lag_seconds)",
            LATE_SECONDS,
            "unhandled record",
            "/console/charts",
        ),
    )
    for id_, name, promql, limit, what, link in rules:
        found = metrics.largest(promql)
        if found is None:
            yield Promise(id_, name, "unknown", "-", "no figures of the last minutes", link, promql)
        else:
            value, service = found
            state: State = "broken" if value > limit else "kept"
            detail = f"{service}: the oldest {what}" if service else f"the oldest {what}"
            yield Promise(id_, name, state, text.span(value), detail, link, f"{promql} > {limit:.0f}")


def _of_health(answers: Sequence[Answer], now: float) -> Iterator[Promise]:
    def parked(one: Answer) -> Trouble | None:
        found = one.body["parked"]
        keys = f"{text.counted(found['events'], 'event')} of {text.counted(found['keys'], 'key')}"
        return (found["oldest"], keys) if found["events"] else None

    def paused(one: Answer) -> Trouble | None:
        return ("", ", ".join(one.body["paused_types"])) if one.body["paused_types"] else None

    def hanging(one: Answer) -> Trouble | None:
        return ("", ", ".join(one.body["hanging"])) if one.body["hanging"] else None

    how = "GET /admin/health of each service"
    yield _each("parked", "No key is parked", answers, parked, now, "/console/parked", how)
    yield _each("paused", "No event type is paused", answers, paused, now, "/console/parked", how)
    yield _each("hanging", "No task hangs", answers, hanging, now, "/console/logs?level=error", how)


def _of_lanes(answers: Sequence[Answer], now: float) -> Iterator[Promise]:
    def late(one: Answer) -> Trouble | None:
        oldest = min((lane["oldest"] for lane in one.body["lanes"] if lane["oldest"]), default=None)
        rows = sum(lane["rows"] for lane in one.body["lanes"])
        too_old = (text.seconds_since(oldest, one.at or now) or 0) > LATE_SECONDS
        return (oldest or "", f"{rows} rows wait") if too_old else None

    def free(one: Answer) -> Trouble | None:
        lanes = [str(lane["lane"]) for lane in one.body["lanes"] if not lane["held"]]
        return ("", f"nobody publishes the lanes {', '.join(lanes)}") if lanes else None

    def refused(one: Answer) -> Trouble | None:
        rows = one.body["refused"]
        return (min(row["refused_at"] for row in rows), f"{len(rows)} rows") if rows else None

    def held_back(one: Answer) -> Trouble | None:
        found = one.body["held_back_by"]
        seconds = (found or {}).get("seconds") or 0
        if seconds <= LATE_SECONDS:
            return None
        return (one.at or now) - seconds, f"pid {found['pid']} of {found['usename']}"

    how, link = "GET /admin/lanes of each service", "/console/lanes"
    yield _each("published", "Events are published on time", answers, late, now, link, how)
    yield _each("lanes", "Each lane has a relay", answers, free, now, link, how)
    yield _each("refused", "Kafka refuses no row", answers, refused, now, link, how)
    yield _each("held-back", "No transaction holds the outboxes back", answers, held_back, now, link, how)


def _each(
    id_: str,
    name: str,
    answers: Sequence[Answer],
    trouble: Callable[[Answer], Trouble | None],
    now: float,
    link: str,
    how: str,
) -> Promise:
    """Broken if any service has the trouble, kept if all answered, unknown otherwise."""
    found = [(one, trouble(one)) for one in answers if not one.missing]
    broken = [(since[0], f"{one.service}: {since[1]}") for one, since in found if since]
    stalest = min((one.at or now for one, _ in found), default=None)
    if broken:
        oldest = min((since for since, _ in broken if since), default=None)
        age = text.span(text.seconds_since(oldest, now)) if oldest else "now"
        return Promise(id_, name, "broken", age, "; ".join(what for _, what in broken), link, how)
    seen = "-" if stalest is None else "seen " + text.span(max(0.0, now - stalest)) + " ago"
    late = [one.service for one in answers if one.problem]
    if late:
        return Promise(id_, name, "unknown", seen, "no answer from " + ", ".join(late), link, how)
    return Promise(id_, name, "kept", seen, f"{len(found)} services", link, how)


def _books(books: Books, now: float) -> Promise:
    last, how, name, link = books.last, "GET /admin/books of each service", "The books balance", "/console/books"
    seen = "-" if last is None else "seen " + text.span(max(0.0, now - last.at)) + " ago"
    if last is None or not books.fresh:
        return Promise("books", name, "unknown", seen, books.problem or "not compared lately", link, how)
    if last.agree:
        agree = f"orders {last.first} to {last.last}: the services agree"
        detail = agree if last.last else "no order is over yet"
        return Promise("books", name, "kept", seen, detail, link, how)
    differences = ", ".join(f"{value} {what}" for what, value in last.differences.items() if value)
    age = text.span(text.seconds_since(books.differ_since, now))
    return Promise("books", name, "broken", age, f"the services differ by {differences}", link, how)


def _targets(health: Sequence[Answer], metrics: Metrics) -> Promise:
    down = [one.service for one in health if one.problem]
    how = "up of each target, and the admin API of each service"
    down += [service for value, service in metrics.each("up") if value == 0]
    if down:
        return Promise(
            "targets", "All services answer", "broken", "now", ", ".join(sorted(set(down))), "/console/logs", how
        )
    return Promise(
        "targets", "All services answer", "kept", "seen now", f"{len(health)} services", "/console/charts", how
    )


def _alerts(alerts: Alerts, now: float) -> Promise:
    firing = alerts.firing()
    paging = [one for one in firing if one.severity == "page"]
    link, how = "/console/alerts", "the rules of the alerts file"
    if not firing:
        return Promise("alerts", "No alert fires", "kept", "now", "", link, how)
    since = min(one.since for one in firing)
    names = ", ".join(sorted({one.name for one in firing}))
    state: State = "broken" if paging else "unknown"
    return Promise("alerts", "No alert fires", state, text.span(text.seconds_since(since, now)), names, link, how)
