"""Evaluates the alert rules every five seconds, and reports alerts that begin and end to a webhook.

What must stay true: an alert is pending until its expression has had a result for the whole time of its `for`. A rule
that cannot be evaluated keeps its alerts, and no other rule notices.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from console.metering import rules
from console.metering.language import BadExpression
from console.metering.promql import Sample
from console.metering.rules import Rule
from console.metering.series import Series
from console.metering.webhook import Webhook
from shared.process.backoff import wait
from shared.process.loop import Beat

log = structlog.get_logger()

EVERY_SECONDS = 5.0
MAX_ALERTS_PER_RULE = 200

Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Alert:
    """One result of a rule. `labels` are those of the result and those of the rule. `since` is when it began."""

    name: str
    severity: str
    labels: Mapping[str, str]
    summary: str
    description: str
    runbook: str
    value: float
    since: datetime
    state: Literal["pending", "firing"]


class Alerts:
    """The rules of a file over `series`. Raises `rules.WrongRules` if the file has a rule that cannot be evaluated."""

    def __init__(self, rules_file: Path, series: Series, webhook: str | None = None) -> None:
        self._rules, self._series = rules.read(rules_file), series
        self._active: dict[str, dict[Key, Alert]] = {rule.name: {} for rule in self._rules}
        self._webhook = Webhook(webhook) if webhook else None
        self.failed: dict[str, str] = {}
        """The rules that could not be evaluated the last time, and why."""

    def all(self) -> list[Rule]:
        """All rules, in the order of the file."""
        return list(self._rules)

    def active(self) -> list[Alert]:
        """All alerts, also those that are only pending, in the order of the rules."""
        return [alert for rule in self._rules for alert in self._active[rule.name].values()]

    def firing(self) -> list[Alert]:
        """The alerts that fire: those that page first, then in the order of the rules."""
        found = [alert for alert in self.active() if alert.state == "firing"]
        return sorted(found, key=lambda alert: rules.SEVERITIES.index(alert.severity))

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Evaluate, and report to the webhook, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            if self._webhook is not None:
                group.create_task(self._webhook.run(stop))
            while not stop.is_set():
                beat()
                self.evaluate(time.time())
                await wait(stop, EVERY_SECONDS)

    def evaluate(self, at: float) -> None:
        """Evaluate each rule once."""
        for rule in self._rules:
            try:
                found = self._series.query(rule.expr, at)
            except BadExpression as error:
                if rule.name not in self.failed:
                    log.warning("an alert rule cannot be evaluated", rule=rule.name, error=str(error))
                self.failed[rule.name] = str(error)
            else:
                self.failed.pop(rule.name, None)
                self._change(rule, found, at)

    def _change(self, rule: Rule, found: list[Sample], at: float) -> None:
        before, now = self._active[rule.name], dict[Key, Alert]()
        for sample in sorted(found, key=lambda one: sorted(one.labels.items()))[:MAX_ALERTS_PER_RULE]:
            labels = {name: text for name, text in sample.labels.items() if name != "__name__"} | dict(rule.labels)
            key = frozenset(labels.items())
            now[key] = _alert(rule, labels, sample.value, before.get(key), at)
        self._active[rule.name] = now
        began = [a for key, a in now.items() if a.state == "firing" and not _fires(before.get(key))]
        ended = [a for key, a in before.items() if _fires(a) and key not in now]
        self._report(began, None)
        self._report(ended, datetime.fromtimestamp(at, UTC))

    def _report(self, alerts: list[Alert], ended_at: datetime | None) -> None:
        for alert in alerts:
            log.info("alert ended" if ended_at else "alert fires", alert=alert.name, labels=dict(alert.labels))
            if self._webhook is not None:
                self._webhook.add(message(alert, ended_at))


def _alert(rule: Rule, labels: dict[str, str], value: float, before: Alert | None, at: float) -> Alert:
    since = before.since if before else datetime.fromtimestamp(at, UTC)
    fires = _fires(before) or at - since.timestamp() >= rule.for_seconds
    shown = {name: rules.filled(text, labels, value) for name, text in rule.annotations.items()}
    return Alert(
        name=rule.name,
        severity=rule.severity,
        labels=labels,
        summary=shown["summary"],
        description=shown["description"],
        runbook=rule.runbook,
        value=value,
        since=since,
        state="firing" if fires else "pending",
    )


def _fires(alert: Alert | None) -> bool:
    return alert is not None and alert.state == "firing"


def message(alert: Alert, ended_at: datetime | None) -> dict[str, object]:
    """An alert in the form that Alertmanager sends to webhooks (version 4)."""
    status = "resolved" if ended_at else "firing"
    labels = {"alertname": alert.name, **alert.labels}
    annotations = {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"docs/operations.md#{alert.runbook}",
    }
    one = {
        "status": status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": alert.since.isoformat(),
        "endsAt": ended_at.isoformat() if ended_at else "0001-01-01T00:00:00Z",
    }
    return {"version": "4", "status": status, "commonLabels": labels, "commonAnnotations": annotations, "alerts": [one]}
