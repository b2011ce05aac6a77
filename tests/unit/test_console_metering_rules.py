"""The alert rules: each fires when it must, in the console as in Prometheus, and each has a runbook."""

import importlib
import json
import pkgutil
import re
from collections import Counter
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from console.metering import language, rules
from console.metering.alerts import Alert, Alerts
from console.metering.language import Selector
from console.metering.series import Series
from tests import promtool
from tests.conftest import ROOT

FILE, TESTS = ROOT / "deploy" / "alerts.yaml", ROOT / "deploy" / "alerts_test.yaml"
RULES = rules.read(FILE)
CASES: list[dict[str, Any]] = yaml.safe_load(TESTS.read_text())["tests"]
BY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
HEADING = re.compile(r"^### (Alert: .*)$", re.MULTILINE)


def expected(alerts: list[dict[str, Any]]) -> list[tuple[dict[str, str], dict[str, str]]]:
    return [(alert["exp_labels"], alert["exp_annotations"]) for alert in alerts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_console_agrees_with_promtools_test_file(case: dict[str, Any]) -> None:
    (check,) = case["alert_rule_test"]
    replay = promtool.Replay(case)
    alerts = Alerts(FILE, replay.series)
    for step in range(int(language.seconds(check["eval_time"]) / promtool.STEP_SECONDS) + 1):
        replay.until(step * promtool.STEP_SECONDS)
        alerts.evaluate(step * promtool.STEP_SECONDS)
    assert not alerts.failed
    found = [(dict(alert.labels), annotations(alert)) for alert in alerts.firing() if alert.name == check["alertname"]]
    assert sorted(found, key=repr) == sorted(expected(check["exp_alerts"]), key=repr)


def annotations(alert: Alert) -> dict[str, str]:
    runbook_url = f"docs/operations.md#{alert.runbook}"
    return {"summary": alert.summary, "description": alert.description, "runbook_url": runbook_url}


@pytest.mark.skipif(promtool.PATH is None, reason=promtool.MISSING)
def test_prometheus_agrees_with_the_test_file() -> None:
    assert promtool.failures(TESTS) == ""


def test_each_rule_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = Counter((test["alertname"], bool(test["exp_alerts"])) for case in CASES for test in case["alert_rule_test"])
    assert cases.keys() == {(rule.name, fires) for rule in RULES for fires in (True, False)}


@BY_RULE
def test_prometheus_parser_accepts_the_expression(rule: rules.Rule) -> None:
    promql_parser.parse(rule.expr)


def defined() -> set[str]:
    """The names of all samples that the code can export."""
    for package in ("shared", "orders", "inventory", "payments", "auth", "users", "products", "console"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    suffixes = {"counter": ["_total"], "histogram": ["_count", "_sum", "_bucket"]}
    found = {metric.name + suffix for metric in REGISTRY.collect() for suffix in suffixes.get(metric.type, [""])}
    return found | {"up"}  # the scraper's own


def names(expression: str) -> set[str]:
    return {node.name for node in language.walk(language.parse(expression)) if isinstance(node, Selector)}


EXPRESSIONS = sorted(
    target["expr"].replace("$service", "orders")
    for path in (ROOT / "deploy" / "dashboards").glob("*.json")
    for panel in json.loads(path.read_text())["panels"]
    for target in panel["targets"]
)


def test_every_metric_of_a_rule_or_a_dashboard_exists() -> None:
    wanted = {name for expression in [*EXPRESSIONS, *(rule.expr for rule in RULES)] for name in names(expression)}
    assert len(wanted) > 40
    assert wanted - defined() == set()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_prometheus_parser_accepts_the_expressions_of_dashboards(expression: str) -> None:
    promql_parser.parse(expression)


def anchors() -> set[str]:
    text = (ROOT / "docs" / "operations.md").read_text()
    return {heading.lower().replace(":", "").replace(" ", "-") for heading in HEADING.findall(text)}


def test_every_rule_has_a_runbook_and_every_runbook_a_rule() -> None:
    assert {rule.runbook for rule in RULES} == anchors()


@pytest.mark.parametrize("anchor", sorted(anchors()))
def test_a_runbook_says_what_it_means_who_notices_where_to_look_and_what_to_do(anchor: str) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    heading = next(h for h in HEADING.findall(text) if h.lower().replace(":", "").replace(" ", "-") == anchor)
    section = text.split(f"### {heading}\n")[1].split("\n### ")[0].split("\n## ")[0]
    for part in ("**Means.**", "**Customers**", "**Look at**", "**Do.**", "python -m quickbite"):
        assert part in section


@BY_RULE
def test_symptoms_page_and_causes_inform(rule: rules.Rule) -> None:
    causes = {"RowsInDefaultPartition", "TelemetryDropped", "BooksUnchecked"}
    assert rule.severity == ("info" if rule.name in causes else "page")


def test_a_parked_event_fires_its_alert_at_the_first_evaluation_after_the_scrape() -> None:
    series = Series()
    alerts = Alerts(FILE, series)
    series.add("payments", 100.0, [("parked_events", "1.0")], {"service": "payments"})
    alerts.evaluate(101.0)
    assert [(alert.name, alert.state) for alert in alerts.firing()] == [("KeyParked", "firing")]


WRONG = {
    "a function that is not supported": ("expr: max(", "expr: topk(3, ", "the function topk is not supported"),
    "a broken expression": ("expr: max(", "expr: max((", "unexpected the end"),
    "a wrong time": ("for: 5s", "for: soon", "is not a duration"),
    "an unknown key": ("for: 5s", "keep_firing_for: 5s", "not supported: keep_firing_for"),
    "an unknown severity": ("{severity: page}", "{severity: loud}", "severity is one of page, info"),
    "a template that is not supported": ("{{ $value }}", "{{ $value | humanize }}", "template is not supported"),
    "a recording rule": ("alert: KeyParked", "record: key_parked", "not supported: record"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_rule_that_cannot_be_evaluated_is_refused_when_the_file_is_read(tmp_path: Path, what: str) -> None:
    before, after, message = WRONG[what]
    text = FILE.read_text()
    assert before in text
    wrong = tmp_path / "alerts.yaml"
    wrong.write_text(text.replace(before, after, 1))
    with pytest.raises(rules.WrongRules, match=re.escape(message)):
        rules.read(wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.0, "3"), (0.25, "0.25"), (1e20, "100000000000000000000"), (1e21, "1e+21"), (1.5e-7, "1.5e-07"), (-2.5, "-2.5")],
)
def test_a_value_is_printed_as_by_prometheus(value: float, text: str) -> None:
    assert rules.filled("{{ $value }}", {}, value) == text


def test_texts_of_labels_are_not_templates() -> None:
    assert rules.filled("{{ $labels.a }}{{ $labels.b }}", {"a": "{{ $value }}"}, 7) == "{{ $value }}"
