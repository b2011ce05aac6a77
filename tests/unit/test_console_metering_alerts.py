"""Alerts: pending, firing, ended, and reported to a webhook that may be slow or down."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from console.metering import alerts as alerting
from console.metering import webhook
from console.metering.alerts import Alerts
from console.metering.series import Series
from console.metering.webhook import Webhook
from tests.builders import eventually

RULES = """
groups:
  - name: test
    rules:
      - alert: Late
        expr: lag > 10
        for: 10s
        labels: {severity: info}
        annotations:
          summary: "{{ $labels.service }} is late"
          description: by {{ $value }} s
          runbook_url: docs/operations.md#alert-late
      - alert: Down
        expr: up == 0
        labels: {severity: page}
        annotations: {summary: down, description: down, runbook_url: docs/operations.md#alert-down}
      - alert: Broken
        expr: many + on () many > 0
        labels: {severity: page}
        annotations: {summary: x, description: x, runbook_url: docs/operations.md#alert-broken}
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(RULES)
    return path


def send(series: Series, at: float, *lines: tuple[str, str]) -> None:
    series.add("a", at, lines, {"service": "a"})


def test_an_alert_is_pending_for_its_time_then_fires_and_then_ends(rules: Path) -> None:
    series = Series()
    alerts = Alerts(rules, series)
    states = []
    for n, lag in enumerate(["5", "11", "12", "13", "14", "9", "11"]):
        send(series, n * 5.0, ("lag", lag))
        alerts.evaluate(n * 5.0)
        states.append([(a.state, a.value, a.since.timestamp()) for a in alerts.active()])
    assert states == [
        [],
        [("pending", 11, 5)],
        [("pending", 12, 5)],
        [("firing", 13, 5)],
        [("firing", 14, 5)],
        [],
        [("pending", 11, 30)],
    ]
    assert alerts.firing() == []


def test_an_alert_has_the_labels_and_texts_of_its_series(rules: Path) -> None:
    series = Series()
    alerts = Alerts(rules, series)
    for at in (0.0, 10.0):
        send(series, at, ("lag", "12.5"), ("up", "0"))
        alerts.evaluate(at)
    down, late = alerts.firing()
    assert (down.name, down.severity) == ("Down", "page")  # what pages comes first
    assert late.labels == {"service": "a", "severity": "info"}
    assert (late.summary, late.description, late.runbook) == ("a is late", "by 12.5 s", "alert-late")
    first = alerts.all()[0]
    assert (first.name, first.for_seconds, first.runbook) == ("Late", 10.0, "alert-late")


def test_a_rule_that_cannot_be_evaluated_is_named_and_the_others_work(rules: Path) -> None:
    series = Series()
    alerts = Alerts(rules, series)
    send(series, 0.0, ('many{x="1"}', "1"), ('many{x="2"}', "1"), ("up", "0"))
    alerts.evaluate(0.0)
    assert [alert.name for alert in alerts.firing()] == ["Down"]
    assert "several series" in alerts.failed["Broken"]
    send(series, 5.0, ('many{x="1"}', "1"), ("up", "1"))
    alerts.evaluate(5.0)
    assert not alerts.failed
    assert [alert.name for alert in alerts.firing()] == ["Broken"]


def test_a_rule_has_a_bounded_number_of_alerts(rules: Path) -> None:
    series = Series()
    alerts = Alerts(rules, series)
    send(series, 0.0, *[(f'up{{n="{n}"}}', "0") for n in range(500)])
    alerts.evaluate(0.0)
    assert len(alerts.firing()) == alerting.MAX_ALERTS_PER_RULE


class Receiver:
    """A webhook that answers with the next of `statuses`, then with 200. `None` closes the connection."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses, self.got = list(statuses), list[dict[str, Any]]()

    async def answer(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            assert request.transport
            request.transport.abort()
            return web.Response()
        if status == 200:
            self.got.append(await request.json())
        return web.Response(status=status)


Start = Callable[[Receiver], Awaitable[str]]


@pytest.fixture
def start(aiohttp_server: Any) -> Start:
    async def started(receiver: Receiver) -> str:
        app = web.Application()
        app.router.add_post("/hook", receiver.answer)
        return str((await aiohttp_server(app)).make_url("/hook"))

    return started


@asynccontextmanager
async def running(made: Webhook | Alerts) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    yield
    stop.set()
    await task


async def test_the_webhook_learns_when_an_alert_begins_and_when_it_ends(
    rules: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerting, "EVERY_SECONDS", 0.02)
    receiver, series = Receiver(), Series()
    alerts = Alerts(rules, series, await start(receiver))
    up = "0"

    async def got(count: int) -> bool:
        send(series, alerting.time.time(), ("up", up))
        return len(receiver.got) == count

    async with running(alerts):
        await eventually(lambda: got(1))
        up = "1"
        await eventually(lambda: got(2))
    began, ended = receiver.got
    assert (began["status"], ended["status"]) == ("firing", "resolved")
    assert began["alerts"][0]["labels"] == {"alertname": "Down", "service": "a", "severity": "page"}
    assert began["alerts"][0]["annotations"]["runbook_url"] == "docs/operations.md#alert-down"
    assert ended["alerts"][0]["startsAt"] == began["alerts"][0]["startsAt"] < ended["alerts"][0]["endsAt"]


async def test_a_webhook_that_is_down_for_a_while_gets_the_message_later(start: Start) -> None:
    receiver = Receiver(500, None, 429, 503)
    made = Webhook(await start(receiver), first_pause_seconds=0.001)
    before = sent("sent")
    async with running(made):
        made.add({"n": 1})
        made.add({"n": 2})
        await eventually(lambda: has(receiver, 2))
    assert [message["n"] for message in receiver.got] == [1, 2]
    assert sent("sent") - before == 2


async def has(receiver: Receiver, count: int) -> bool:
    return len(receiver.got) == count


def sent(outcome: str) -> float:
    return REGISTRY.get_sample_value("alert_notifications_total", {"outcome": outcome}) or 0.0


async def test_a_message_that_is_refused_is_not_sent_again(start: Start) -> None:
    receiver = Receiver(400)
    made = Webhook(await start(receiver))
    before = sent("refused")
    async with running(made):
        made.add({"n": 1})
        made.add({"n": 2})
        await eventually(lambda: has(receiver, 1))
    assert receiver.got == [{"n": 2}]
    assert sent("refused") - before == 1


async def test_a_message_is_given_up_after_some_attempts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "MAX_ATTEMPTS", 3)
    receiver = Receiver(500, 500, 500)
    made = Webhook(await start(receiver), first_pause_seconds=0.001)
    before = sent("failed")
    async with running(made):
        made.add({"n": 1})
        made.add({"n": 2})
        await eventually(lambda: has(receiver, 1))
    assert receiver.got == [{"n": 2}]
    assert sent("failed") - before == 1


def test_the_queue_of_messages_is_bounded_and_drops_the_oldest() -> None:
    made, before = Webhook("http://127.0.0.1:1"), sent("dropped")
    for n in range(webhook.MAX_WAITING + 5):
        made.add({"n": n})
    assert made._waiting[0] == {"n": 5}
    assert len(made._waiting) == webhook.MAX_WAITING
    assert sent("dropped") - before == 5


async def test_a_webhook_that_is_down_does_not_keep_the_process_from_ending() -> None:
    made = Webhook("http://127.0.0.1:1", first_pause_seconds=60)
    async with running(made):
        made.add({"n": 1})
        await asyncio.sleep(0.05)
